"""A small resuming client of Longwire, written from docs/protocol.md alone.

It speaks the subprotocol `longwire.v1.json`. A `Client` owns one connection at a time and opens the next one when it
ends. A `Producer` publishes to one session and repeats what was not answered. A `Subscription` yields every record of a
session from its start on exactly once, however often the connection ends in between.
"""

import asyncio
import base64
import contextlib
import json
import random
import secrets

import websockets
from websockets.asyncio.client import connect

SUBPROTOCOL = "longwire.v1.json"
CONNECT_TIMEOUT_S = 10.0
RECONNECT_FIRST_S = 0.1
RECONNECT_MOST_S = 10.0
# Deliveries of one subscription that wait for the application. A full queue stops the reading of the socket, and so,
# in the end, the broker's sending.
DELIVERIES_WAITING_MAX = 16
# A delivery has 256 KiB of records, or one record of at most 1 MiB; JSON and base64 make more of it.
FRAME_BYTES_MAX = 16 << 20
# Publishes of one producer that wait for an answer; `publish` waits when there are more.
PUBLISHES_WAITING_MAX = 256


class LongwireError(Exception):
    """The `error` of a frame. Go by `code`."""

    def __init__(self, error):
        self.code = error.get("code", "")
        self.message = error.get("message", "")
        self.retryable = error.get("retryable", False)
        self.retry_after_ms = int(error.get("retryAfterMs", 0))
        self.field = error.get("field", "")
        self.limit = int(error.get("limit", 0))
        self.expected = int(error.get("expected", 0))
        super().__init__(f"{self.message} ({self.code})")


class Disconnected(Exception):
    """The connection ended before the answer came."""


class Event:
    """Something that a subscriber must know about, other than a record: an outcome of the protocol."""

    def __init__(self, outcome, frame):
        self.outcome = outcome
        self.frame = frame

    def __repr__(self):
        return f"Event({self.outcome!r}, {self.frame})"


class Record:
    """A record with the offset that its delivery gives it."""

    def __init__(self, epoch, offset, fields):
        self.epoch = epoch
        self.offset = offset
        self.fields = fields
        self.kind = int(fields.get("kind", 0))
        self.time_ms = int(fields.get("timeMs", 0))

    @property
    def position_after(self):
        """Where a reader that has this record goes on."""
        return position(self.epoch, self.offset + 1)

    @property
    def body(self):
        """The body as bytes; empty when there is none."""
        if "data" in self.fields:
            return base64.b64decode(self.fields["data"])
        return self.fields.get("text", "").encode()


def position(epoch, offset):
    """The text of a position."""
    return f"{epoch:016d}_{offset:016d}"


def record(body, **fields):
    """A record to publish: text, or bytes."""
    if isinstance(body, str):
        return {"text": body, **fields}
    return {"data": base64.b64encode(body).decode(), **fields}


def backoff_s(attempt):
    """Full jitter."""
    return random.uniform(0, min(RECONNECT_MOST_S, RECONNECT_FIRST_S * 2 ** min(attempt, 20)))


class Client:
    """One device of a principal. Use it as `async with Client(url) as client`."""

    def __init__(self, url, device=""):
        self.url = url.rstrip("/") + "/v1/connect"
        self.device = device
        self.welcome = {}
        self.connections = 0
        self._socket = None
        self._connected = asyncio.Event()
        self._requests = {}
        self._next_request = 1
        self._subscriptions = {}
        self._next_subscription = 1
        self._producers = []
        self._failure = None
        self._task = None
        # What the broker did against docs/protocol.md. A test looks whether there is any.
        self.defects = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def request(self, kind, **fields):
        """Sends one request and returns its answer. Raises `Disconnected` when the connection ends first."""
        await self._wait_connected()
        return await self._send_request(kind, fields)

    async def describe(self, session):
        answer = await self._retry("describeSession", session=session)
        return answer["session"]

    async def create(self, session, update=False, **meta):
        """Raises `session_exists` when there is one and not `update`. After a reconnect that may be our own."""
        return (await self.request("createSession", session=session, meta=meta, update=update))["session"]

    async def close(self, session, reason=""):
        answer = await self._retry("closeSession", session=session, reason=reason)
        return answer["session"]

    async def delete(self, session):
        await self.request("deleteSession", session=session)

    async def list(self, prefix="", page=0):
        """Every session whose id begins with `prefix`, page by page."""
        sessions, next_page = [], ""
        while True:
            answer = await self._retry("listSessions", prefix=prefix, page=next_page, limit=page)
            sessions.extend(answer.get("sessions", []))
            next_page = answer.get("nextPage", "")
            if not next_page:
                return sessions

    async def publish_once(self, session, records, producer=None, if_end=None):
        """One publish, as it is, on this connection: nothing is repeated."""
        fields = {"session": session, "records": records}
        if producer is not None:
            fields["producer"] = producer
        if if_end is not None:
            fields["ifEnd"] = if_end
        return await self.request("publish", **fields)

    def producer(self, session, **identity):
        producer = Producer(self, session, **identity)
        self._producers.append(producer)
        return producer

    async def subscribe(self, session, start=None, wait=False, window_bytes=None):
        """Returns when the wish is sent, or will be with the next connection; `Subscription.begun` waits for the answer.
        `start` is the `from` of docs/protocol.md, such as {"start": True}; without it, the end.

        Without `window_bytes` a subscription that is not read stops the whole connection: that is the back-pressure of
        the transport. With it, the others go on."""
        subscription = Subscription(
            self, self._next_subscription, session, start or {"end": True}, wait, window_bytes
        )
        self._next_subscription += 1
        self._subscriptions[subscription.number] = subscription
        if self._connected.is_set():
            await self._subscribe([subscription])
        return subscription

    def cut(self):
        """Ends the connection without a word, as a lost network does."""
        if self._socket is not None:
            self._socket.transport.abort()

    # --- the connection ----------------------------------------------------------------------------------------------

    async def _wait_connected(self):
        while not self._connected.is_set():
            if self._failure is not None:
                raise self._failure
            waiting = asyncio.create_task(self._connected.wait())
            await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self._task.done() and not self._connected.is_set():
                raise self._failure or Disconnected()

    async def _retry(self, kind, **fields):
        """For requests that may be carried out twice without harm."""
        attempt = 0
        while True:
            try:
                return await self.request(kind, **fields)
            except Disconnected:
                continue
            except LongwireError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(error.retry_after_ms / 1000 or backoff_s(attempt))
                attempt += 1

    async def _run(self):
        attempt = 0
        while True:
            after_ms = 0
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    self._socket = await connect(
                        self.url,
                        subprotocols=[SUBPROTOCOL],
                        compression=None,
                        ping_interval=None,
                        max_size=FRAME_BYTES_MAX,
                        proxy=None,
                    )
                    if self._socket.subprotocol != SUBPROTOCOL:
                        raise websockets.NegotiationError(f"the broker does not speak {SUBPROTOCOL}")
                    await self._hello()
                attempt = 0
                await self._connection()
            except LongwireError as error:
                # A goodbye.
                if not error.retryable:
                    self._fail(error)
                    return
                after_ms = error.retry_after_ms
            except websockets.InvalidStatus as error:
                if error.response.status_code < 500:
                    self._fail(error)
                    return
            except websockets.NegotiationError as error:
                self._fail(error)
                return
            except (OSError, TimeoutError, Disconnected, websockets.WebSocketException):
                pass
            except Exception as error:
                self._fail(error)
                raise
            finally:
                await self._disconnected()
            await asyncio.sleep(after_ms / 1000 + backoff_s(attempt))
            attempt += 1

    def _fail(self, error):
        self._failure = error
        for subscription in self._subscriptions.values():
            subscription._finish(error)
        for producer in self._producers:
            producer._fail(error)

    async def _hello(self):
        await self._send("hello", {"device": self.device, "client": "longwire-python-test/0.1"})
        frame = await self._receive()
        if "welcome" not in frame:
            raise Disconnected(f"a welcome was due, not {frame}")
        self.welcome = frame["welcome"]

    async def _connection(self):
        """Reads until the connection ends."""
        self.connections += 1
        self._connected.set()
        ping = asyncio.create_task(self._ping())
        resume = asyncio.create_task(self._resume())
        try:
            silence_s = 2 * int(self.welcome["heartbeatMs"]) / 1000
            while True:
                async with asyncio.timeout(silence_s):
                    frame = await self._receive()
                await self._take(frame)
        finally:
            for task in (ping, resume):
                task.cancel()
            await asyncio.gather(ping, resume, return_exceptions=True)

    async def _resume(self):
        """Takes up subscriptions, all in one frame, and publishes where the last connection left them."""
        going_on = [subscription for subscription in self._subscriptions.values() if not subscription.ended]
        for producer in self._producers:
            producer._start()
        if going_on:
            await self._subscribe(going_on)

    async def _ping(self):
        every_s = int(self.welcome["idleTimeoutMs"]) / 3000
        with contextlib.suppress(Disconnected):
            while True:
                await asyncio.sleep(every_s)
                await self._send("ping", {"token": 1})

    async def _disconnected(self):
        self._connected.clear()
        socket, self._socket = self._socket, None
        requests, self._requests = self._requests, {}
        for waiting, _ in requests.values():
            if not waiting.done():
                waiting.set_exception(Disconnected())
                waiting.exception()
        for producer in self._producers:
            producer._stop()
        if socket is not None:
            socket.transport.abort()

    async def _send(self, kind, fields):
        if self._socket is None:
            raise Disconnected()
        try:
            await self._socket.send(json.dumps({kind: fields}))
        except websockets.ConnectionClosed as error:
            raise Disconnected() from error

    async def _receive(self):
        try:
            frame = json.loads(await self._socket.recv())
        except websockets.ConnectionClosed as error:
            raise Disconnected() from error
        if "goodbye" in frame:
            goodbye = frame["goodbye"]
            error = LongwireError(goodbye.get("error", {}))
            error.retry_after_ms = int(goodbye.get("reconnectAfterMs", 0))
            raise error
        return frame

    def _begin_request(self, kind, fields):
        number = self._next_request
        self._next_request += 1
        waiting = asyncio.get_running_loop().create_future()
        self._requests[number] = (waiting, kind)
        return number, waiting

    async def _send_request(self, kind, fields):
        number, waiting = self._begin_request(kind, fields)
        try:
            await self._send(kind, {"request": number, **fields})
            return await waiting
        finally:
            self._requests.pop(number, None)

    async def _subscribe(self, subscriptions):
        number = self._next_request
        self._next_request += 1
        wanted = [subscription._wanted() for subscription in subscriptions]
        with contextlib.suppress(Disconnected):
            await self._send("subscribe", {"request": number, "subscriptions": wanted})

    async def _take(self, frame):
        """Takes one frame. What is not known is ignored."""
        for kind, fields in frame.items():
            if kind in ("delivery", "subscribed", "subscriptionEnded"):
                subscription = self._subscriptions.get(fields.get("subscription", 0))
                if subscription is not None:
                    await getattr(subscription, f"_{kind}")(fields)
            elif kind == "refused":
                error = LongwireError(fields.get("error", {}))
                subscription = self._subscriptions.get(fields.get("subscription", 0))
                if int(fields.get("request", 0)) in self._requests:
                    self._answer(fields, error)
                elif subscription is not None:
                    await subscription._refused(error)
            elif kind in ("published", "done", "sessionDescription", "sessionList"):
                self._answer(fields, None)

    def _answer(self, fields, error):
        waiting, _ = self._requests.get(int(fields.get("request", 0)), (None, None))
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(fields)
        else:
            waiting.set_exception(error)


class Producer:
    """Publishes to one session. What is not answered is sent again, in order, under the same sequence."""

    def __init__(self, client, session, id=None, epoch=0, sequence=0):
        self.client = client
        self.session = session
        self.id = id or secrets.token_hex(16)
        self.epoch = epoch
        self.sequence = sequence
        self.duplicates = 0
        # (records, future), the first of which has the sequence `sequence`.
        self._waiting = []
        self._room = asyncio.Semaphore(PUBLISHES_WAITING_MAX)
        self._changed = asyncio.Event()
        self._task = None

    async def publish(self, *bodies):
        """Queues one publish and returns a future of its `published`, or of its refusal."""
        records = [body if isinstance(body, dict) else record(body) for body in bodies]
        await self._room.acquire()
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append((records, answered))
        self._changed.set()
        if self.client._failure is not None:
            self._fail(self.client._failure)
        elif self.client._connected.is_set():
            self._start()
        return answered

    def _start(self):
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def _stop(self):
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _fail(self, error):
        for _, answered in self._waiting:
            if not answered.done():
                answered.set_exception(error)
        self._waiting.clear()

    async def _run(self):
        """One connection's share of the work: sends all that waits, in order, takes answers, and goes back to the
        lowest sequence when it must."""
        attempt = 0
        sent = []
        while True:
            try:
                while len(sent) < len(self._waiting):
                    sent.append(await self._send(len(sent)))
                if not sent:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self._changed.clear()
                more = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait({more, sent[0]}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    more.cancel()
                if not sent[0].done():
                    continue
                self._answered(sent.pop(0).result(), None)
                attempt = 0
            except Disconnected:
                return
            except LongwireError as error:
                # What is behind the refused publish is refused too, or will be recognised: let those answers come.
                await asyncio.gather(*sent, return_exceptions=True)
                sent = []
                if error.retryable:
                    await asyncio.sleep(error.retry_after_ms / 1000 or backoff_s(attempt))
                    attempt += 1
                else:
                    self._answered(None, error)

    async def _send(self, index):
        records, _ = self._waiting[index]
        producer = {"id": self.id, "epoch": self.epoch, "sequence": self.sequence + index}
        fields = {"session": self.session, "records": records, "producer": producer}
        number, waiting = self.client._begin_request("publish", fields)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self.client._send("publish", {"request": number, **fields})
        return waiting

    def _answered(self, published, error):
        """The lowest publish is settled. One that was refused has not used its sequence: the next takes it."""
        _, answered = self._waiting.pop(0)
        self._room.release()
        if error is None:
            self.sequence += 1
            self.duplicates += published.get("duplicate", False)
        if answered.done():
            return
        if error is None:
            answered.set_result(published)
        else:
            answered.set_exception(error)


class Subscription:
    """An asynchronous iterator of `Record`s and `Event`s."""

    def __init__(self, client, number, session, start, wait, window_bytes):
        self.client = client
        self.number = number
        self.session = session
        self.ended = False
        self._start = start
        self._wait = wait
        self._window_bytes = window_bytes
        # The epoch and offset of the next record that is due, as far as they are known.
        self._epoch = None
        self._next = None
        self._queue = asyncio.Queue()
        # With a window the broker bounds what waits; without one this does, by stopping the reading of the socket.
        self._room = None if window_bytes else asyncio.Semaphore(DELIVERIES_WAITING_MAX)
        self._current = []
        self._consumed = None
        self._answered = asyncio.Event()

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._current:
            if self._consumed is not None and self._window_bytes:
                await self._credit(self._consumed)
            self._consumed = None
            item = await self._queue.get()
            if not isinstance(item, tuple):
                self._queue.put_nowait(None)
                if item is None:
                    raise StopAsyncIteration
                raise item
            if self._room is not None:
                self._room.release()
            self._current, self._consumed = item
        return self._current.pop(0)

    async def begun(self):
        """Waits until the broker has answered. What is published from then on will be delivered."""
        await self._answered.wait()

    async def unsubscribe(self):
        self._finish(None)
        await self.client.request("unsubscribe", subscription=self.number)

    def _wanted(self):
        start = self._start
        if self._next is not None:
            start = {"position": position(self._epoch, self._next)}
        wanted = {"subscription": self.number, "session": self.session, "from": start, "wait": self._wait}
        if self._window_bytes:
            wanted["windowBytes"] = self._window_bytes
        return wanted

    async def _credit(self, consumed_through):
        # A connection that has ended takes its window with it.
        with contextlib.suppress(Disconnected):
            await self.client._send("credit", {"subscription": self.number, "consumedThrough": consumed_through})

    async def _put(self, items, consumed=None):
        if self._room is not None:
            await self._room.acquire()
        self._queue.put_nowait((items, consumed))

    def _finish(self, error):
        self.ended = True
        self.client._subscriptions.pop(self.number, None)
        self._queue.put_nowait(error)
        self._answered.set()

    async def _subscribed(self, fields):
        outcome = fields.get("outcome", "")
        if outcome not in ("resumed", "from_start", "gap", "epoch_changed"):
            await self._put([Event(outcome, fields)])
            self._finish(None)
        elif not fields.get("exists", False):
            # Whatever is there later came later.
            self._start, self._next = {"start": True}, None
        else:
            epoch, begin = int(fields.get("epoch", 0)), int(fields.get("from", 0))
            if outcome == "resumed" and self._next not in (None, begin):
                self.client.defects.append(f"resumed at {begin} when {self._next} was asked for")
                raise Disconnected()
            self._epoch, self._next = epoch, begin
            if outcome in ("gap", "epoch_changed"):
                await self._put([Event(outcome, fields)])
        self._answered.set()

    async def _delivery(self, fields):
        epoch, begin, end = (int(fields.get(name, 0)) for name in ("epoch", "from", "next"))
        if self._next is None:
            # The session was created after the subscription: it begins here.
            self._epoch, self._next = epoch, 0
        records = fields.get("records", [])
        offsets = [int(offset) for offset in fields.get("offsets", [])] or list(range(begin, end))
        # The epoch rises where the session was forked, imported or restored; its offsets go on.
        if epoch < self._epoch or begin != self._next or len(records) != len(offsets):
            defect = f"a delivery of {len(records)} from {(epoch, begin)} came when {(self._epoch, self._next)} was due"
            self.client.defects.append(defect)
            raise Disconnected(defect)
        # What is put into the queue outlives the connection, so the next one begins behind it.
        self._next = end
        records = [Record(epoch, offset, fields) for offset, fields in zip(offsets, records, strict=True)]
        await self._put(records, end)

    async def _subscriptionEnded(self, fields):
        error = LongwireError(fields.get("error", {}))
        if not error.retryable:
            await self._put([Event(error.code, fields)])
            self._finish(None)
        elif error.code != "draining":
            # A broker that drains says goodbye next, and the next connection takes the subscription up.
            await self._refused(error)

    async def _refused(self, error):
        if error.retryable:
            await asyncio.sleep(error.retry_after_ms / 1000 or backoff_s(0))
            await self.client._subscribe([self])
        else:
            self._finish(error)
