"""A whole story against a running broker: `python story.py ws://127.0.0.1:PORT`. Prints `ok`, or says what was wrong.

`--phase publish --state FILE` and, after the broker was killed and started again on the same folder, `--phase verify
--state FILE` show that what was acknowledged is there, and that reading and publishing go on where they stopped.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import sys

import websockets
from websockets.asyncio.client import connect

from longwire_client import Client, Event, LongwireError, position, record

STORY_TIMEOUT_S = 120
PUBLISHES = 300


def equal(actual, wanted, what):
    if actual == wanted:
        return
    if isinstance(actual, list) and isinstance(wanted, list) and len(actual) == len(wanted):
        # Only what differs first: lists are long.
        index = next(index for index, pair in enumerate(zip(actual, wanted)) if pair[0] != pair[1])
        actual, wanted, what = actual[index], wanted[index], f"{what}, at index {index}"
    raise AssertionError(f"{what}: {actual!r} instead of {wanted!r}")


def bodies_of(publish):
    """The records of one publish: one to three, text and bytes, each unlike any other."""
    first = f"{publish}: line ✓\n"
    second = bytes([publish % 256, 0, 255, 254]) + str(publish).encode()
    return [first, second, ""][: 1 + publish % 3]


def as_bytes(body):
    return body.encode() if isinstance(body, str) else body


def all_bodies(publishes):
    return [as_bytes(body) for publish in range(publishes) for body in bodies_of(publish)]


async def take(subscription, count):
    """The next records, without those of the broker."""
    records = []
    while len(records) < count:
        item = await anext(subscription)
        if isinstance(item, Event):
            raise AssertionError(f"{item} came when a record was due")
        records.append(item)
    return records


def check_records(records, first, bodies, what):
    equal([r.offset for r in records], list(range(first, first + len(bodies))), f"{what}: offsets")
    equal([r.body for r in records], bodies, f"{what}: bodies")
    times = [r.time_ms for r in records]
    equal(times, sorted(times), f"{what}: times never fall")


async def refused(code, work, **wanted):
    try:
        await work
    except LongwireError as error:
        equal(error.code, code, f"the code of `{error}`")
        for name, value in wanted.items():
            equal(getattr(error, name), value, f"`{name}` of `{error}`")
        return error
    raise AssertionError(f"{code} was due; nothing was refused")


# --- resuming --------------------------------------------------------------------------------------------------------


async def resuming(url, name):
    """One publishes, two read; every connection is cut again and again."""
    session = f"{name}/resuming"
    wanted = all_bodies(PUBLISHES)
    async with Client(url, "writer") as writer, Client(url, "early") as early, Client(url, "late") as late:
        early_reading = await early.subscribe(session, {"start": True}, wait=True)

        async def read_early():
            records = []
            while len(records) < len(wanted):
                records += await take(early_reading, 1)
                if len(records) % 50 == 0:
                    early.cut()
            return records

        async def read_late():
            """Begins when there is something, with a small window."""
            subscription = await late.subscribe(session, {"start": True}, wait=True, window_bytes=2000)
            records = []
            while len(records) < len(wanted):
                records += await take(subscription, 1)
                if len(records) % 90 == 0:
                    late.cut()
            return records

        async def write():
            producer = writer.producer(session)
            answers = []
            for publish in range(PUBLISHES):
                answers.append(await producer.publish(*bodies_of(publish)))
                if publish == 0:
                    await answers[0]
                    late_reading.set_result(None)
                if publish % 60 == 59:
                    # Some are on their way, some are answered.
                    await answers[-10]
                    writer.cut()
            return await asyncio.gather(*answers)

        late_reading = asyncio.get_running_loop().create_future()

        async def begin_late():
            await late_reading
            return await read_late()

        answers, early_records, late_records = await asyncio.gather(write(), read_early(), begin_late())
        next_offset = 0
        for publish, answer in enumerate(answers):
            equal(int(answer.get("from", 0)), next_offset, f"where publish {publish} begins")
            next_offset += len(bodies_of(publish))
            equal(int(answer.get("next", 0)), next_offset, f"where publish {publish} ends")
        check_records(early_records, 0, wanted, "the early reader")
        check_records(late_records, 0, wanted, "the late reader")
        for client in (writer, early, late):
            equal(client.defects, [], f"what was wrong for {client.device}")
            if client.connections < 3:
                raise AssertionError(f"{client.device} had {client.connections} connections; the cuts did not work")

        sender = early_records[0].fields["sender"]
        equal(sender.get("device"), "writer", "the sender's device")
        equal(sender.get("principal"), writer.welcome["principal"], "the sender's principal")

        # Elsewhere: the same by other ways to begin.
        async def tail(start, first):
            subscription = await late.subscribe(session, start)
            check_records(await take(subscription, len(wanted) - first), first, wanted[first:], str(start))
            await subscription.unsubscribe()

        middle = len(wanted) // 2
        await tail({"position": early_records[middle - 1].position_after}, middle)
        await tail({"offset": middle}, middle)
        await tail({"last": 10}, len(wanted) - 10)
        await tail({"last": 10**9}, 0)

        live = await late.subscribe(session)
        await live.begun()
        await (await writer.producer(session).publish(record("news", type="t", headers={"k": "v"}, id="r-1")))
        news = (await take(live, 1))[0]
        equal(news.offset, len(wanted), "the offset of what is new")
        wanted_fields = {"text": "news", "type": "t", "headers": {"k": "v"}, "id": "r-1"}
        equal({key: news.fields.get(key) for key in wanted_fields}, wanted_fields, "what a writer said")


# --- sessions --------------------------------------------------------------------------------------------------------


async def sessions(url, name):
    async with Client(url) as client:
        session = f"{name}/sessions/one"
        await refused("session_not_found", client.describe(session))
        await refused("session_not_found", client.close(session))
        await refused("session_not_found", client.delete(session))
        await refused("session_not_found", anext(await client.subscribe(session)))

        waiting = await client.subscribe(session, wait=True)
        await waiting.begun()
        created = await client.create(session, title="One", labels={"a": "b"}, parent=f"{name}/sessions")
        equal(created["session"], session, "the id")
        equal(created["meta"], {"title": "One", "labels": {"a": "b"}, "parent": f"{name}/sessions"}, "the metadata")
        equal(created.get("end"), "1", "the end of a session that was created")
        first = (await take(waiting, 1))[0]
        equal((first.offset, first.kind), (0, 10), "the record of the creation")
        await refused("session_exists", client.create(session))
        updated = await client.create(session, update=True, title="Two")
        equal(updated["meta"], {"title": "Two"}, "the metadata, replaced")
        equal((await take(waiting, 1))[0].kind, 10, "the kind of the change")

        for index in range(5):
            await client.publish_once(f"{name}/sessions/list-{index}", [record("x")])
        listed = await client.list(prefix=f"{name}/sessions/list-", page=2)
        equal([one["session"] for one in listed], [f"{name}/sessions/list-{i}" for i in range(5)], "the list")
        equal({one["end"] for one in listed}, {"1"}, "the ends in the list")

        producer = {"id": "p", "epoch": 0, "sequence": 0}
        before = await client.publish_once(session, [record("last words")], producer)
        closed = await client.close(session, "done")
        equal((closed.get("closed"), closed["end"]), (True, "4"), "a closed session")
        equal((await client.close(session))["end"], "4", "closing again does nothing")
        await refused("session_closed", client.publish_once(session, [record("too late")]))
        again = await client.publish_once(session, [record("last words")], producer)
        equal((again["from"], again.get("duplicate")), (before["from"], True), "a repetition after the close")
        rest = [item async for item in waiting]
        equal([item.kind for item in rest[:-1]], [0, 10], "what was left to read")
        equal(rest[-1].outcome, "session_closed", "how a reading of a closed session ends")
        at_end = [item.outcome async for item in await client.subscribe(session, {"end": True})]
        equal(at_end, ["closed"], "a subscription that has nothing left to read")

        deleted = f"{name}/sessions/deleted"
        await client.publish_once(deleted, [record("a"), record("b")], producer)
        reading = await client.subscribe(deleted, {"start": True})
        old = (await take(reading, 2))[-1]
        await client.delete(deleted)
        equal((await anext(reading)).outcome, "session_deleted", "how a reading of a deleted session ends")
        await refused("session_not_found", client.describe(deleted))
        await refused("producer_unknown", client.publish_once(deleted, [record("c")], {**producer, "sequence": 1}))
        anew = await client.publish_once(deleted, [record("c")])
        equal(int(anew.get("from", 0)), 0, "the first offset of a session made again")
        if int(anew.get("epoch", 0)) <= old.epoch:
            raise AssertionError("a session made again has a higher epoch")
        reading = await client.subscribe(deleted, {"position": old.position_after})
        equal((await anext(reading)).outcome, "epoch_changed", "a position of a deleted session")
        check_records(await take(reading, 1), 0, [b"c"], "a session made again")
        equal(client.defects, [], "what was wrong")


# --- refusals --------------------------------------------------------------------------------------------------------


async def refusals(url, name):
    async with Client(url) as client:
        session = f"{name}/refusals"
        published = await client.publish_once(session, [record("a")])
        epoch = int(published.get("epoch", 0))

        def publish(records=(record("b"),), to=session, **options):
            return client.publish_once(to, list(records), **options)

        for bad in ("", "/a", "a//b", "a b", "~x", ".a", "/".join("a" * 17), "a" * 65):
            await refused("invalid_session_id", publish(to=bad))
        for bad in ("", "42", "0_1", position(epoch, 0) + "0"):
            await refused("invalid_position", anext(await client.subscribe(session, {"position": bad})))
        future = anext(await client.subscribe(session, {"position": position(epoch, 10)}))
        equal((await future).outcome, "future_position", "a position from the future")
        future = anext(await client.subscribe(session, {"offset": 10}))
        equal((await future).outcome, "future_position", "an offset from the future")

        await refused("end_mismatch", publish(if_end=0), expected=1)
        await publish(if_end=1)
        await refused("batch_empty", publish(records=[]))
        await refused("field_reserved", publish([record("x", timeMs="1")]), field="time_ms")
        await refused("kind_reserved", publish([record("x", kind=10)]), field="kind")
        await refused("invalid_record", publish([record("x", id="no spaces")]), field="id")
        await refused("record_too_large", publish([record("x" * (1 << 20))]), limit=1 << 20)
        await refused("batch_too_large", publish([record("x")] * 1025), limit=1024)
        unsubscribe = client.request("unsubscribe", subscription=99)
        await refused("subscription_not_found", unsubscribe)
        equal((await client.describe(session))["end"], "2", "nothing that was refused was published")

        def produce(text, sequence, epoch=0, **options):
            return publish([record(text)], producer={"id": "p", "epoch": epoch, "sequence": sequence}, **options)

        await refused("producer_unknown", produce("x", 3))
        first = await produce("first", 0, if_end=2)
        again = await produce("first", 0, if_end=2)
        wanted = {key: first.get(key) for key in ("epoch", "from", "next")}
        equal({key: again.get(key) for key in wanted}, wanted, "the offsets of a repetition")
        equal(again.get("duplicate"), True, "a repetition is marked")
        await refused("sequence_conflict", produce("other", 0))
        await refused("sequence_gap", produce("x", 2), expected=1)
        await produce("higher", 0, epoch=4)
        await refused("producer_fenced", produce("x", 1), expected=4)

        producer = client.producer(session)
        good, bad, behind = [await producer.publish(one) for one in ("g", record("x", id="no spaces"), "h")]
        await good
        await refused("invalid_record", bad)
        check = int((await behind)["from"]) - int((await good)["from"])
        equal(check, 1, "the publish behind one that was refused takes its sequence")
        equal(client.connections, 1, "no refusal has ended the connection")


class Wire:
    """A connection without a client: frames as they are."""

    def __init__(self, url, subprotocols):
        self.connecting = connect(url + "/v1/connect", subprotocols=subprotocols, compression=None, proxy=None)

    async def __aenter__(self):
        self.socket = await self.connecting
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def send(self, *frames):
        for frame in frames:
            await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self):
        return json.loads(await self.socket.recv())

    async def goodbye(self, code, close_code, what=""):
        """Reads up to the end."""
        last = None
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                last = await self.socket.recv()
        equal(self.socket.close_code, close_code, f"the close code of {code}")
        if isinstance(last, str):
            error = json.loads(last)["goodbye"]["error"]
            equal(error["code"], code, "the code of the goodbye")
            if what not in error["message"]:
                raise AssertionError(f"`{error['message']}` does not name {what}")
        elif last is None:
            raise AssertionError(f"no goodbye came; {code} was due")


async def frames(url, name):
    json_only = ["longwire.v1.json"]
    hello = {"hello": {}}
    session = f"{name}/frames"

    for subprotocols in (["longwire.v2.json"], None):
        try:
            async with Wire(url, subprotocols):
                raise AssertionError(f"a connection with the subprotocols {subprotocols} was accepted")
        except websockets.InvalidStatus as error:
            equal(error.response.status_code, 400, f"the status for {subprotocols}")
            equal(json.loads(error.response.body)["code"], "unsupported_protocol", "the code of the problem")
    async with Wire(url, ["longwire.v2.json", "longwire.v1.json", "longwire.v1.proto"]) as wire:
        equal(wire.socket.subprotocol, "longwire.v1.json", "the first subprotocol that is known")

    endings = [
        ([hello, {"publish": {"session": session, "colour": "red"}}], "unknown_field", 1007, "`colour`"),
        ([hello, {"publish": {"records": [{"txt": "x"}]}}], "unknown_field", 1007, "`txt`"),
        ([hello, '{"ping":'], "invalid_frame", 1007, ""),
        ([hello, "[]"], "invalid_frame", 1007, ""),
        ([hello, {"ping": {"token": -1}}], "invalid_frame", 1007, ""),
        ([hello, {"ping": {}, "hello": {}}], "invalid_frame", 1007, ""),
        ([hello, {}], "unknown_frame", 1008, ""),
        ([hello, b"{}"], "wrong_message_type", 1003, ""),
        ([hello, hello], "hello_repeated", 1008, ""),
        ([{"ping": {}}], "hello_expected", 1008, ""),
    ]
    for sent, code, close_code, what in endings:
        async with Wire(url, json_only) as wire:
            await wire.send(*sent)
            await wire.goodbye(code, close_code, what)
    async with Wire(url, ["longwire.v1.proto"]) as wire:
        # An empty `hello`, then text where binary is due.
        await wire.send(b"\x0a\x00", '{"ping":{}}')
        await wire.goodbye("wrong_message_type", 1003)

    async with Wire(url, json_only) as wire:
        # Commands follow at once; names and numbers in every spelling; several subscriptions in one frame.
        await wire.send(
            hello,
            {"publish": {"request": "7", "session": session, "records": [{"content_type": "a/b", "data": "-_8"}], "if_end": "0"}},
            {"subscribe": {"request": 8, "subscriptions": [
                {"subscription": 1, "session": session, "from": {"start": True}, "wait": True},
                {"subscription": "2", "session": f"{session}/none"},
            ]}},
        )  # fmt: skip
        received = {}
        while not {"welcome", "published", "subscribed", "delivery", "refused"} <= received.keys():
            received.update(await wire.receive())
        equal(received["published"], {"request": "7", "next": "1"}, "defaults are left out, 64 bits are strings")
        equal(received["subscribed"]["outcome"], "from_start", "the outcome")
        equal(received["delivery"]["records"][0]["data"], "+/8=", "bytes come in the standard alphabet")
        equal(received["delivery"]["records"][0]["contentType"], "a/b", "names come in lowerCamelCase")
        equal(received["refused"]["request"], "8", "the request that was refused")
        equal(received["refused"]["subscription"], 2, "the subscription that was refused")
        equal(received["refused"]["error"]["code"], "session_not_found", "why it was refused")

        await wire.send({"subscribe": {"request": 9, "subscriptions": [{"subscription": 1, "session": session}]}})
        while (frame := await wire.receive()).get("subscribed", {}).get("request") != "9":
            if "subscriptionEnded" in frame:
                raise AssertionError("a subscription that was replaced said that it ended")
        await wire.send({"ping": {"token": 2**53 - 1}})
        while "pong" not in (frame := await wire.receive()):
            pass
        equal(frame["pong"]["token"], str(2**53 - 1), "the token of the pong")


# --- across a restart of the broker ----------------------------------------------------------------------------------


async def publish_phase(url, name, state_file):
    session = f"{name}/restart"
    async with Client(url) as client:
        producer = client.producer(session)
        answers = [await (await producer.publish(*bodies_of(publish))) for publish in range(50)]
        reading = await client.subscribe(session, {"start": True})
        read = await take(reading, 20)
        ranges = [(int(answer.get("from", 0)), int(answer["next"])) for answer in answers]
        state = {
            "session": session,
            "producer": producer.id,
            "ranges": ranges,
            "read": len(read),
            "position": read[-1].position_after,
        }
    with open(state_file, "w", encoding="utf-8") as file:
        json.dump(state, file)


async def verify_phase(url, state_file):
    with open(state_file, encoding="utf-8") as file:
        state = json.load(file)
    session, ranges = state["session"], state["ranges"]
    wanted = all_bodies(len(ranges))
    async with Client(url) as client:
        whole = await take(await client.subscribe(session, {"start": True}), len(wanted))
        check_records(whole, 0, wanted, "everything that was acknowledged")
        rest = await take(await client.subscribe(session, {"position": state["position"]}), len(wanted) - state["read"])
        check_records(rest, state["read"], wanted[state["read"] :], "what was not read yet")
        equal(int((await client.describe(session))["end"]), len(wanted), "the end")

        # As if the last answer had been lost.
        last = len(ranges) - 1
        producer = client.producer(session, id=state["producer"], sequence=last)
        again = await (await producer.publish(*bodies_of(last)))
        equal([int(again["from"]), int(again["next"])], ranges[last], "the offsets of a repetition")
        equal(again.get("duplicate"), True, "a repetition is marked")
        new = await (await producer.publish("new"))
        equal(int(new["from"]), len(wanted), "where publishing goes on")
        equal(client.defects, [], "what was wrong")


async def story(options):
    name = f"story/{secrets.token_hex(6)}"
    async with asyncio.timeout(STORY_TIMEOUT_S):
        if options.phase == "publish":
            await publish_phase(options.url, name, options.state)
        elif options.phase == "verify":
            await verify_phase(options.url, options.state)
        else:
            for chapter in (frames, refusals, sessions, resuming):
                print(chapter.__name__, file=sys.stderr)
                await chapter(options.url, name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="such as ws://127.0.0.1:8700")
    parser.add_argument("--phase", choices=["publish", "verify"])
    parser.add_argument("--state", help="where a phase keeps what the next one needs")
    options = parser.parse_args()
    if bool(options.phase) != bool(options.state):
        parser.error("--phase and --state go together")
    options.url = options.url.rstrip("/")
    asyncio.run(story(options))
    print("ok")


if __name__ == "__main__":
    main()
