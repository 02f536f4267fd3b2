"""A story over gRPC against a running broker, by a client that grpcio-tools made of `proto/`:

    python grpc_story.py HOST:PORT --stubs FOLDER --token TOKEN [--ca FILE] --state FILE --phase begin|resume

`begin` prints `kill`, waits for the broker to be killed, and leaves in the state file how far it had come. `resume` goes on from there.
Prints `ok`, or says what was wrong.
"""

import argparse
import json
import sys
import threading

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

# A hang is a failure; nothing here takes this long.
PATIENCE_S = 60
SERVICE = "longwire.v1.SessionService"
SESSION = "acme/grpc/story"


def equal(actual, wanted, what):
    if actual != wanted:
        raise AssertionError(f"{what}: {actual!r} instead of {wanted!r}")


def position_of(epoch, offset):
    return f"{epoch:016}_{offset:016}"


class Broker:
    def __init__(self, arguments, token=None):
        sys.path.insert(0, arguments.stubs)
        from longwire.v1 import longwire_pb2, service_pb2_grpc

        self.pb = longwire_pb2
        if arguments.ca:
            with open(arguments.ca, "rb") as file:
                credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
            self.channel = grpc.secure_channel(arguments.address, credentials)
        else:
            self.channel = grpc.insecure_channel(arguments.address)
        self.token = arguments.token if token is None else token
        self.metadata = (("authorization", f"Bearer {self.token}"), ("longwire-device", "py"))
        self.stub = service_pb2_grpc.SessionServiceStub(self.channel)

    def __getattr__(self, name):
        method = getattr(self.stub, name)
        return lambda message: method(message, metadata=self.metadata, timeout=PATIENCE_S)

    def record(self, text):
        return self.pb.Record(text=text)

    def publish(self, sequence, *texts, session=SESSION):
        producer = self.pb.Producer(id="p", sequence=sequence)
        return self.Publish(self.pb.Publish(session=session, records=[self.record(t) for t in texts], producer=producer))

    def follow(self, session=SESSION, **start):
        wish = self.pb.Subscription(subscription=1, session=session, **{"from": getattr(self.pb, "From")(**start)})
        return self.Subscribe(self.pb.Subscribe(subscriptions=[wish]))


def refused(status, code, call, **wanted):
    """Makes the call, which must be refused, and answers the typed error of it."""
    try:
        call()
    except grpc.RpcError as error:
        return typed(error, status, code, **wanted)
    raise AssertionError(f"{code} was due; nothing was refused")


def typed(error, status, code, **wanted):
    equal(error.code(), status, f"the status of {error.details()!r}")
    from longwire.v1 import longwire_pb2

    details = rpc_status.from_call(error).details
    found = longwire_pb2.Error()
    equal(details[0].Unpack(found), True, "the first of the details is the error")
    equal(found.code, code, f"the code of {error.details()!r}")
    for name, value in wanted.items():
        equal(getattr(found, name), value, f"`{name}` of {error.details()!r}")
    if found.retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        equal(details[1].Unpack(retry), True, "the second of the details says when to try again")
    return found


def texts_of(frames, count, position):
    """The next texts that a subscription delivers, from this offset on, without a hole."""
    texts = []
    while len(texts) < count:
        frame = next(frames)
        if frame.WhichOneof("frame") != "delivery":
            continue
        delivery = frame.delivery
        equal(getattr(delivery, "from"), position, "where a delivery begins")
        position = delivery.next
        texts += [record.text for record in delivery.records if record.kind == 0]
    return texts, position


def begin(broker, arguments):
    pb = broker.pb
    described = broker.CreateSession(pb.CreateSession(session=SESSION, meta=pb.SessionMeta(title="Story", labels={"by": "py"})))
    equal((described.session.session, described.session.end), (SESSION, 1), "the new session")
    first = broker.publish(0, "a0", "a1")
    equal((getattr(first, "from"), first.next, first.duplicate), (1, 3, False), "the first publish")
    again = broker.publish(0, "a0", "a1")
    equal((getattr(again, "from"), again.next, again.duplicate), (1, 3, True), "the same publish again")
    refused(grpc.StatusCode.ALREADY_EXISTS, "sequence_conflict", lambda: broker.publish(0, "other", "a1"))
    refused(grpc.StatusCode.FAILED_PRECONDITION, "sequence_gap", lambda: broker.publish(2, "a3"), expected=1)

    frames = broker.follow(start=True)
    subscribed = next(frames).subscribed
    equal((subscribed.session, subscribed.end, subscribed.outcome), (SESSION, 3, "from_start"), "what is subscribed")
    texts, position = texts_of(frames, 2, 0)
    equal(texts, ["a0", "a1"], "catch-up")
    for sequence in range(1, 200):
        broker.publish(sequence, f"b{sequence}")
    live, position = texts_of(frames, 199, position)
    equal(live, [f"b{sequence}" for sequence in range(1, 200)], "live")

    # One that this client does not read before the broker is killed.
    broker.publish(200, "unread")
    with open(arguments.state, "w") as file:
        json.dump({"position": position_of(subscribed.epoch, position), "offset": position}, file)
    print("kill", flush=True)
    try:
        while True:
            next(frames)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.UNAVAILABLE, "a broker that was killed")


def resume(broker, arguments):
    pb = broker.pb
    with open(arguments.state) as file:
        state = json.load(file)
    frames = broker.follow(position=state["position"])
    first = next(frames)
    equal(first.subscribed.outcome, "resumed", f"the outcome of going on, by {first}")
    equal(broker.publish(200, "unread").duplicate, True, "what was acknowledged is there")
    broker.publish(201, "after")
    texts, end = texts_of(frames, 2, state["offset"])
    equal(texts, ["unread", "after"], "nothing lost, nothing twice")
    frames.cancel()

    pages, after = [], position_of(0, 0)
    while True:
        page = broker.Read(pb.Read(session=SESSION, after=after, limit=50))
        pages += [record.text for record in page.records if record.kind == 0]
        after = position_of(page.epoch, page.next)
        if page.next == page.end:
            break
    equal(len(pages), 203, "records on all pages")
    equal(pages[-2:], ["unread", "after"], "the last page")

    listed = broker.ListSessions(pb.ListSessions(prefix="acme/grpc", labels={"by": "py"})).sessions
    equal([session.session for session in listed], [SESSION], "the list")
    session = broker.DescribeSession(pb.DescribeSession(session=SESSION)).session
    equal((session.end, session.meta.title, session.closed), (end, "Story", False), "what it is")

    broker.CommitCursor(pb.CommitCursor(session=SESSION, cursor="mine", position=position_of(session.epoch, end)))
    cursor = broker.DescribeCursor(pb.DescribeCursor(session=SESSION, cursor="mine"))
    equal(cursor.position, position_of(session.epoch, end), "the cursor")
    fork = broker.ForkSession(pb.ForkSession(session=f"{SESSION}/fork", from_session=SESSION)).session
    equal(fork.session, f"{SESSION}/fork", "the fork")
    erased = broker.EraseRecords(pb.EraseRecords(session=SESSION, ranges=[pb.OffsetRange(**{"from": 1, "next": 2})]))
    equal(erased.records, 1, "erased")
    trimmed = broker.TrimSession(pb.TrimSession(session=SESSION, before=position_of(session.epoch, 3))).session
    equal(trimmed.start, 3, "trimmed")
    head = pb.ImportBegin(start=0, end=1, lineage=[pb.LineageEntry()], session="elsewhere")
    record = pb.Record(time_ms=1, sender=pb.Sender(principal="x"), text="imported")
    step = pb.ImportRecords(session=f"{SESSION}/import", begin=head, records=[record], finish=True, **{"import": "i"})
    equal(broker.ImportRecords(step).session.session, f"{SESSION}/import", "the import")
    equal(len(broker.ListWorkerGroups(pb.ListWorkerGroups()).groups), 0, "worker groups")
    equal(broker.BackUp(pb.BackUp(name="py")).sessions >= 3, True, "the backup")

    shares(broker, arguments)
    refusals(broker, arguments)
    attach(broker)
    system(broker)

    closed = broker.CloseSession(pb.CloseSession(session=SESSION, reason="told")).session
    equal(closed.closed, True, "closed")
    refused(grpc.StatusCode.FAILED_PRECONDITION, "session_closed", lambda: broker.publish(202, "late"))
    # A reader of what is closed is told its end, and the call is over.
    frames = broker.follow(position=position_of(closed.epoch, closed.end - 1))
    try:
        last = [frame.WhichOneof("frame") for frame in frames]
        raise AssertionError(f"an end without a status: {last}")
    except grpc.RpcError as error:
        typed(error, grpc.StatusCode.FAILED_PRECONDITION, "session_closed")
    frames = list(broker.follow(position=position_of(closed.epoch, closed.end)))
    equal([frame.subscribed.outcome for frame in frames], ["closed"], "a subscription of what was read out")
    broker.DeleteSession(pb.DeleteSession(session=SESSION))
    describe = pb.DescribeSession(session=SESSION)
    refused(grpc.StatusCode.NOT_FOUND, "session_not_found", lambda: broker.DescribeSession(describe))


def shares(broker, arguments):
    pb = broker.pb
    shared = broker.ShareSession(pb.ShareSession(session=SESSION))
    guest = Broker(arguments, shared.token)
    equal(guest.DescribeSession(pb.DescribeSession(session=SESSION)).session.session, SESSION, "a guest reads")
    refused(grpc.StatusCode.PERMISSION_DENIED, "forbidden", lambda: guest.publish(0, "x"))
    other = pb.DescribeSession(session=f"{SESSION}/fork")
    refused(grpc.StatusCode.NOT_FOUND, "session_not_found", lambda: guest.DescribeSession(other))
    frames = guest.follow(end=True)
    equal(next(frames).subscribed.outcome, "resumed", "a guest follows")
    broker.RevokeToken(pb.RevokeToken(id=shared.id))
    try:
        while True:
            next(frames)
    except grpc.RpcError as error:
        typed(error, grpc.StatusCode.UNAUTHENTICATED, "token_revoked")
    describe = pb.DescribeSession(session=SESSION)
    refused(grpc.StatusCode.UNAUTHENTICATED, "token_revoked", lambda: guest.DescribeSession(describe))


def refusals(broker, arguments):
    pb = broker.pb
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_session_id",
        lambda: broker.DescribeSession(pb.DescribeSession(session="no spaces")),
    )
    refused(grpc.StatusCode.INVALID_ARGUMENT, "batch_empty", lambda: broker.publish(0, session="acme/empty"))
    exists = pb.CreateSession(session=SESSION)
    refused(grpc.StatusCode.ALREADY_EXISTS, "session_exists", lambda: broker.CreateSession(exists))
    mismatch = pb.Publish(session=SESSION, records=[broker.record("x")], if_end=0)
    refused(grpc.StatusCode.ABORTED, "end_mismatch", lambda: broker.Publish(mismatch))
    absent = pb.Subscribe(subscriptions=[pb.Subscription(subscription=1, session="acme/absent")])
    refused(grpc.StatusCode.NOT_FOUND, "session_not_found", lambda: list(broker.Subscribe(absent)))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument", lambda: list(broker.Subscribe(pb.Subscribe())))
    describe = pb.DescribeSession(session=SESSION)
    for token in ["", "no token"]:
        nobody = Broker(arguments, token)
        refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", lambda: nobody.DescribeSession(describe))
        refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", lambda: list(nobody.follow(start=True)))
    device = (("authorization", f"Bearer {broker.token}"), ("longwire-device", "no spaces"))
    refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_argument",
        lambda: broker.stub.DescribeSession(describe, metadata=device, timeout=PATIENCE_S),
    )


def attach(broker):
    """The frame protocol itself."""
    pb = broker.pb
    heard = threading.Semaphore(0)

    def says():
        yield pb.ClientFrame(hello=pb.Hello(device="py", client="story", token=broker.token))
        yield pb.ClientFrame(ping=pb.Ping(token=7))
        yield pb.ClientFrame(describe_session=pb.DescribeSession(request=9, session=SESSION))
        for _ in range(3):
            heard.acquire()

    answers = []
    for frame in broker.stub.Attach(says(), timeout=PATIENCE_S):
        answers.append(frame)
        heard.release()
    kinds = [frame.WhichOneof("frame") for frame in answers]
    equal(kinds, ["welcome", "pong", "session_description"], "what is heard")
    equal((answers[1].pong.token, answers[2].session_description.request), (7, 9), "which is answered")

    calls = broker.stub.Attach(iter([pb.ClientFrame(ping=pb.Ping())]), timeout=PATIENCE_S)
    equal(next(calls).goodbye.error.code, "hello_expected", "the goodbye")
    try:
        next(calls)
    except grpc.RpcError as error:
        typed(error, grpc.StatusCode.FAILED_PRECONDITION, "hello_expected")


def system(broker):
    """What tools that know nothing of Longwire find out."""
    database = ProtoReflectionDescriptorDatabase(broker.channel)
    services = set(database.get_services())
    equal(SERVICE in services and "grpc.health.v1.Health" not in services, True, f"{services}")
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    equal(service.methods_by_name["Publish"].input_type.full_name, "longwire.v1.Publish", "a described method")
    equal(len(service.methods), 25, "methods")
    health = health_pb2_grpc.HealthStub(broker.channel)
    for name in ["", SERVICE]:
        status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S).status
        equal(status, health_pb2.HealthCheckResponse.SERVING, f"the health of {name!r}")
    try:
        health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=PATIENCE_S)
        raise AssertionError("there is no other service")
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.NOT_FOUND, "the health of what there is not")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--stubs", required=True)
    parser.add_argument("--token", default="")
    parser.add_argument("--ca")
    parser.add_argument("--state", required=True)
    parser.add_argument("--phase", choices=["begin", "resume"], required=True)
    arguments = parser.parse_args()
    {"begin": begin, "resume": resume}[arguments.phase](Broker(arguments), arguments)
    print("ok")


main()
