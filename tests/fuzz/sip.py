"""What reads SIP messages and digest headers, as functions that raise for whatever must not happen.

The same functions run under coverage guidance (`guided`), under our own mutator, and on the kept corpus in CI. Each
makes its own objects, so that an input means the same whenever it is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from signaling.sip.digest import (
    ALGORITHMS,
    Authenticator,
    Challenge,
    DigestError,
    Login,
    Malformed,
    challenges,
    parse_challenge,
    parse_credentials,
)
from signaling.sip.guard import Guard
from signaling.sip.message import Headers, Message, Request, Response, received_from, respond
from signaling.sip.registrar import Registrar
from signaling.sip.transaction import Flow
from signaling.sip.useragent import UserAgent
from signaling.sip.wire import Framer, StreamError, WireError, parse

PEER = "192.0.2.7"
UDP = Flow("UDP", (PEER, 5070), ("198.51.100.1", 5060))
TCP = Flow("TCP", (PEER, 40_000), ("198.51.100.1", 5060), serial=1)


def wire(data: bytes) -> None:
    """A datagram and a stream: a message that round-trips, or the wire error; whatever is answered can be read."""
    try:
        message = parse(data)
    except WireError as error:
        if error.response is not None:
            assert bytes(error.response).startswith(b"SIP/2.0 ")
    else:
        assert parse(bytes(message)) == message
        touch(message)
    frame(data)
    serve(data)


def touch(message: Message) -> None:
    """Every property holds for whatever was parsed."""
    _ = (message.via, message.from_tag, message.to_tag, message.contact, message.call_id, message.cseq, message.media)
    _ = message.headers.options("Require"), message.headers.values("Contact"), message.content_type
    if isinstance(message, Request):
        assert parse(bytes(respond(message, 200, to_tag="t"))).cseq == message.cseq
        assert received_from(message, "192.0.2.1", 7).via.host == message.via.host


def frame(data: bytes) -> None:
    """Cut into other pieces, a stream holds the same messages."""
    step = 1 + data[0] % 61 if data else 1
    assert _framed([data]) == _framed([data[at : at + step] for at in range(0, len(data), step)])


def _framed(chunks: list[bytes]) -> tuple[list[bytes], bool]:
    framer, messages = Framer(), []
    try:
        for chunk in chunks:
            for message in framer.feed(chunk):
                messages.append(message)
    except StreamError:
        return messages, True
    return messages, False


def serve(data: bytes) -> None:
    """A user agent with phones of its own takes it, by both ways, and lives: it answers an OPTIONS afterwards."""
    agent = user_agent(trusted=bool(data) and data[-1] % 2 == 0)
    for flow in (UDP, TCP):
        agent.receive(data, flow, 10.0)
        for sent, _ in agent.take_outgoing():
            assert sent.count(b"\r\n\r\n") == 1 and sent.partition(b"\r\n\r\n")[2] == b""
    agent.take_events()
    agent.calls.close("over", 11.0)
    while (at := agent.next_at) is not None:
        agent.fire(at)
    agent.take_outgoing()
    assert agent.left_over() == 0
    agent.receive(OPTIONS, UDP, 300.0)
    assert agent.take_outgoing()[0][0].startswith((b"SIP/2.0 200 ", b"SIP/2.0 401 "))


OPTIONS = (
    b"OPTIONS sip:agent@198.51.100.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:5070;rport;branch=z9hG4bKlast\r\n"
    b"From: <sip:a@b>;tag=f\r\nTo: <sip:a@b>\r\nCall-ID: last\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


def user_agent(trusted: bool = True) -> UserAgent:
    """One whose tags and nonces are counted, not random."""
    return UserAgent(trusted=lambda host: trusted, registrar=Registrar(guard()), token=numbered())


def numbered() -> Callable[[], str]:
    """Tokens in order."""
    numbers = itertools.count(1)
    return lambda: f"t{next(numbers)}"


def guard() -> Guard:
    """With one user, whose password nothing here knows."""
    return Guard("house", {"alice": "a password that no mutation finds"}, b"key", numbered())


def digest(data: bytes) -> None:
    """A header with a challenge or credentials: read or Malformed, and nobody is let in by it."""
    text = data.decode(errors="surrogateescape")
    for read in (parse_challenge, parse_credentials):
        try:
            told = read(text)
        except Malformed as error:
            assert str(error).isprintable() and len(str(error)) < 200
            continue
        if told.algorithm in ALGORITHMS and (
            told.answerable if isinstance(told, Challenge) else told.qop in ("", "auth")
        ):
            assert str(read(str(told))) == str(told)  # what we may say ourselves can be read
    _answer(text)
    _check(text)


def _answer(text: str) -> None:
    response = Response(Headers((("WWW-Authenticate", text), ("Proxy-Authenticate", text))), b"", 401, "Unauthorized")
    ours = Authenticator(Login("alice", "secret"), lambda: "cnonce")
    for _ in range(4):
        try:
            ours.learn(response)
        except DigestError as error:
            assert str(error).isprintable() and "secret" not in str(error)
        for _, value in ours.fields("REGISTER", "sip:house"):
            assert parse_credentials(value).username == "alice"
    assert len(challenges(response)) <= 2


def _check(text: str) -> None:
    gate = guard()
    request = Request(Headers((("Authorization", text),)), b"", "REGISTER", "sip:house")
    for now in range(12):
        assert not gate.check(request, PEER, float(now)).user
    assert len(gate) <= 2
