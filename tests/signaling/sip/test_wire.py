"""wire.py: what is a message, what is refused and how, and at what cost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.sip.grammar import parse_via
from signaling.sip.message import Headers, Message, Request, received_from, respond
from signaling.sip.wire import MAX_BODY, MAX_HEAD, PING, Framer, StreamError, WireError, parse

TORTURE = Path(__file__).parents[2] / "data" / "rfc4475"
DROPPED = 0

# What becomes of each message of RFC 4475: the method or code it is read as, the status it is refused with, or DROPPED
# (a response cannot be answered). What a user agent then says to those that are read stands in test_useragent.py.
OUTCOMES: dict[str, str | int] = {
    # 3.1.1 valid messages
    "wsinv": "INVITE",
    "intmeth": "!interesting-Method0123456789_*+`.%indeed'~",
    "esc01": "INVITE",
    "escnull": "REGISTER",
    "esc02": "RE%47IST%45R",
    "lwsdisp": "OPTIONS",
    "longreq": "INVITE",
    "dblreq": "REGISTER",
    "semiuri": "OPTIONS",
    "transports": "OPTIONS",
    "mpart01": "MESSAGE",
    "unreason": "200",
    "noreason": "100",
    # 3.1.2 invalid messages
    "badinv01": 400,
    "clerr": 400,
    "ncl": 400,
    "scalar02": 400,
    "scalarlg": DROPPED,
    "quotbal": 400,
    "ltgtruri": 400,
    "lwsruri": 400,
    "lwsstart": 400,
    "trws": "OPTIONS",  # choice: white space after the start line may be ignored
    "escruri": 400,
    "baddate": "INVITE",  # choice: whoever has no use for Date may ignore it
    "regbadct": "REGISTER",  # a registrar's to refuse; whoever is none reads no Contact of a REGISTER
    "badaspec": "OPTIONS",  # choice: white space within <> may be ignored
    "baddn": "OPTIONS",  # choice: a display name of other than tokens may be accepted
    "badvers": 505,
    "mismatch01": 400,
    "mismatch02": 400,
    "bigcode": DROPPED,
    # 3.2 transaction layer: RFC 2543 matching
    "badbranch": "OPTIONS",
    # 3.3 application layer
    "insuf": 400,
    "unkscm": 416,
    "novelsc": 416,
    "unksm2": "REGISTER",
    "bext01": "OPTIONS",
    "invut": "INVITE",
    "regaut01": "REGISTER",
    "multi01": 400,
    "mcl01": 400,
    "bcast": "200",
    "zeromf": "OPTIONS",
    "cparam01": "REGISTER",
    "cparam02": "REGISTER",
    "regescrt": "REGISTER",
    "sdp01": "INVITE",
    # 3.4 backward compatibility
    "inv2543": "INVITE",
}


def torture(name: str) -> bytes:
    return (TORTURE / f"{name}.dat").read_bytes()


def outcome(data: bytes) -> str | int:
    try:
        message = parse(data)
    except WireError as error:
        return error.response.code if error.response else DROPPED
    return message.method if isinstance(message, Request) else str(message.code)


def invite(*extra: str, body: str = "", **changed: str) -> bytes:
    """An INVITE with some of its fields changed (or left out, where the new value is "-")."""
    fields = {
        "Via": "SIP/2.0/UDP 192.0.2.7:5070;rport;branch=z9hG4bK1",
        "Max-Forwards": "70",
        "From": '"Alice" <sip:alice@example.com>;tag=a1',
        "To": "<sip:agent@example.org>",
        "Call-ID": "1@example.com",
        "CSeq": "1 INVITE",
        "Contact": "<sip:alice@192.0.2.7:5070>",
        "Content-Length": str(len(body)),
    }
    fields |= {name.replace("_", "-"): value for name, value in changed.items() if name != "start"}
    lines = [changed.get("start", "INVITE sip:agent@example.org SIP/2.0")]
    lines += [f"{name}: {value}" for name, value in fields.items() if value != "-"]
    return "\r\n".join([*lines, *extra, "", body]).encode()


def request(*extra: str, body: str = "", **changed: str) -> Request:
    message = parse(invite(*extra, body=body, **changed))
    assert isinstance(message, Request)
    return message


# --- RFC 4475 ------------------------------------------------------------------------------------------------------


def test_the_torture_set_is_whole() -> None:
    assert {path.stem for path in TORTURE.glob("*.dat")} == OUTCOMES.keys()
    assert len(OUTCOMES) == 49


@pytest.mark.parametrize("name", OUTCOMES)
def test_torture(name: str) -> None:
    assert outcome(torture(name)) == OUTCOMES[name]


@pytest.mark.parametrize("name", OUTCOMES)
def test_torture_on_a_stream(name: str) -> None:
    """Framed, a message has the same outcome; where its length cannot be known the stream is at its end."""
    if name in ("ncl", "inv2543"):
        with pytest.raises(StreamError):
            list(Framer().feed(torture(name)))
        return
    messages = list(Framer().feed(torture(name)))
    longer = ("clerr", "multi01")  # than what follows; of the two lengths of mcl01 the first one counts
    assert len(messages) == (2 if name == "dblreq" else 0 if name in longer else 1)
    assert [outcome(message) for message in messages[:1]] == ([] if name in longer else [OUTCOMES[name]])


def test_torture_wsinv_is_understood() -> None:
    message = parse(torture("wsinv"))
    assert message.to_tag == "1918181833n"
    assert message.from_.name == 'J Rosenberg \\"'
    assert message.from_tag == "98asjd8"
    assert message.cseq == (9, "INVITE")
    assert [str(parse_via(via)) for via in message.headers.values("Via")] == [
        "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw",
        "SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8",
        "SIP/2.0/UDP 192.168.255.111;branch=z9hG4bK30239",
    ]
    assert message.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert message.contact == "sip:jdrosen@example.com"


def test_torture_intmeth_is_echoed_byte_by_byte() -> None:
    message = parse(torture("intmeth"))
    assert isinstance(message, Request)
    lines = torture("intmeth").split(b"\r\n")
    answer = bytes(respond(message, 501)).split(b"\r\n")
    for name in (b"Via:", b"From:", b"To:", b"Call-ID:", b"CSeq:"):
        assert [line for line in lines if line.startswith(name)] == [line for line in answer if line.startswith(name)]


def test_torture_dblreq_ends_at_content_length() -> None:
    first, second = Framer().feed(torture("dblreq"))
    assert (parse(first).cseq, parse(second).cseq) == ((8, "REGISTER"), (8, "INVITE"))


def test_torture_longreq_keeps_its_vias() -> None:
    message = parse(torture("longreq"))
    assert len(message.headers.values("Via")) == 34
    assert message.contact == f"sip:{'amazinglylongcallername' * 5}@host5.example.net"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Via": "-"}, DROPPED),
        ({"Via": ","}, DROPPED),
        ({"Via": "SIP/2.0/UDP"}, DROPPED),
        ({"Via": "SIP/2.0/UDP h:0;branch=z9hG4bK1"}, 400),
        ({"Via": "SIP/2.0/UDP h:65536;branch=z9hG4bK1"}, 400),
        ({"Via": "SIP/2.0/UDP h;branch=1;Branch=2"}, 400),
        ({"Via": "SIP/2.0/UDP h;self=1"}, 400),
        ({"Via": "SIP/3.0/UDP h;branch=z9hG4bK1"}, 400),
        ({"From": "-"}, 400),
        ({"To": "-"}, 400),
        ({"Call_ID": "-"}, 400),
        ({"CSeq": "-"}, 400),
        ({"CSeq": "1"}, 400),
        ({"CSeq": "-1 INVITE"}, 400),
        ({"CSeq": "2147483648 INVITE"}, 400),
        ({"CSeq": "\u0661 INVITE"}, 400),
        ({"CSeq": "1 ACK"}, 400),
        ({"CSeq": "1 INVITE x"}, 400),
        ({"To": "<sip:agent@example.org"}, 400),
        ({"To": "<sip:agent@example.org> <sip:b@c>"}, 400),
        ({"To": "<sip:a@b>, <sip:b@c>"}, 400),
        ({"To": "<sip:agent@example.org>;self=1"}, 400),
        ({"To": "<sip:agent@example.org;self=1>"}, 400),
        ({"To": "<sip:agent@example.org>;tag"}, 400),
        ({"To": "<sip:agent@example.org>;TAG="}, 400),
        ({"From": "<sip:alice@example.com>;tag="}, 400),
        ({"Call_ID": "a b"}, 400),
        ({"Max_Forwards": "300"}, 400),
        ({"Max_Forwards": "-1"}, 400),
        ({"Content_Length": "-0"}, 400),
        ({"Content_Length": "1"}, 400),
        ({"Content_Length": str(MAX_BODY + 1)}, 513),
        ({"Content_Length": "9" * 4000}, 400),
        ({"Subject": "x\x00y"}, 400),
        ({"Subject": "x\ny"}, 400),
        ({"Subject": "x" * 5000}, 513),
        ({"start": "INVITE sip:agent@example.org SIP/3.0"}, 505),
        ({"start": "INVITE sip:agent@example.org"}, 400),
        ({"start": "INVITE  sip:agent@example.org SIP/2.0"}, 400),
        ({"start": "INV ITE sip:agent@example.org SIP/2.0"}, 400),
        ({"start": "INVITE agent SIP/2.0"}, 400),
        ({"start": "INVITE sip:a\x01b@example.org SIP/2.0"}, 400),
        ({"start": "INVITE sip:a@b:99999 SIP/2.0"}, 400),
        ({"start": "INVITE mailto:a@b SIP/2.0"}, 416),
        ({"start": "ACK sip:agent@example.org SIP/2.0"}, DROPPED),
        ({"start": "SIP/2.0 200 OK", "From": "-"}, DROPPED),
        ({"start": "SIP/2.0 700 Odd"}, DROPPED),
        ({"start": "SIP/2.0 099 Odd"}, DROPPED),
        ({"start": "SIP/2.0 \u0661\u0660\u0660 Odd"}, DROPPED),
    ],
    ids=str,
)
def test_refusals(changed: dict[str, str], status: int) -> None:
    assert outcome(invite(**changed)) == status


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        (["To: <sip:b@c>"], 400),
        (["Max-Forwards: 70"], 400),
        (["no colon"], 400),
        (["b@d: name"], 400),
        (["X: y"] * 121, 513),
        (["X: " + "y" * 4000] * 5, 513),
        (["Contact: " + ", ".join(["<sip:a@b>"] * 11)], 400),
        (["Route: <sip:a@b>"] * 21, 400),
        (["Via: SIP/2.0/UDP h"] * 40, 400),
    ],
    ids=str,
)
def test_refused_fields(extra: list[str], status: int) -> None:
    assert outcome(invite(*extra)) == status


def test_a_registrar_may_tell_of_any_number_of_phones() -> None:
    """RFC 3261, section 10.3: its 200 has all that have registered."""
    head = b"SIP/2.0 200 OK\r\n" + invite(CSeq="1 REGISTER", Contact="-").partition(b"\r\n")[2]
    contacts = b"".join(b"Contact: <sip:a%d@b>\r\n" % number for number in range(40))
    message = parse(head.replace(b"\r\n\r\n", b"\r\n" + contacts + b"\r\n"))
    assert len(message.headers.values("Contact")) == 40


def test_the_refusal_says_why_and_to_whom() -> None:
    with pytest.raises(WireError, match="bad CSeq number") as caught:
        parse(invite(CSeq="x INVITE"))
    response = caught.value.response
    assert response is not None
    assert response.phrase == "Bad Request (bad CSeq number)"
    assert response.headers.get("Via") == "SIP/2.0/UDP 192.0.2.7:5070;rport;branch=z9hG4bK1"
    assert response.headers.get("To") == "<sip:agent@example.org>;tag=refused"
    assert len(bytes(response)) <= len(invite(CSeq="x INVITE")) + 60  # no amplifier


def test_an_empty_first_via_is_refused_though_a_second_is_there() -> None:
    assert outcome(invite("Via: SIP/2.0/UDP h;rport", Via=",")) == DROPPED


def test_without_content_length_the_datagram_ends_the_body() -> None:
    assert request(body="v=0", Content_Length="-").body == b"v=0"


def test_bytes_after_the_body_are_no_part_of_it() -> None:
    assert request(body="v=0 and more", Content_Length="03").body == b"v=0"


# --- what is repaired ----------------------------------------------------------------------------------------------


def test_keep_alives_before_a_start_line_are_skipped() -> None:
    assert parse(b"\r\n\r\n" + invite()) == request()


def test_compact_and_odd_cased_names() -> None:
    message = request("s: hello", "SUPPORTED: Timer, 100rel", **{"From": "-", "f": "sip:bob@example.net;TAG=x"})
    assert message.headers.get("Subject") == "hello"
    assert message.headers.options("supported") == ("timer", "100rel")
    assert message.from_tag == "x"


# --- properties ----------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A torture message, cut, doubled and overwritten here and there, as a fuzzer would."""
    data = bytearray(torture(draw(st.sampled_from(sorted(OUTCOMES)))))
    pieces = st.sampled_from(
        [b"", b"\r\n", b"\r\n ", b"\r", b"\x00", b'"', b"<", b">", b";", b",", b"%00", b"=", b"\xff", b" ", b":", b"\\"]
        + [b"9" * 30, b"-1", b"Content-Length: 5\r\n", b"A" * 5000, "\u0661".encode(), b"\xe2\x80\xa8", b"self"]
    )
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 30))] = draw(pieces)
    return bytes(data)


def check_round_trip(data: bytes) -> None:
    try:
        message = parse(data)
    except WireError as error:
        if error.response is not None:
            assert parse_response(bytes(error.response)) == error.response.code
        return
    assert parse(bytes(message)) == message
    _touch(message)


def parse_response(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


def _touch(message: Message) -> None:
    """Every property holds for whatever was parsed."""
    _ = (message.via, message.from_tag, message.to_tag, message.contact, message.call_id, message.cseq)
    if isinstance(message, Request):
        assert parse(bytes(respond(message, 200, to_tag="t"))).cseq == message.cseq
        assert received_from(message, "192.0.2.1", 7).via.host == message.via.host


@settings(max_examples=300, deadline=None)
@given(mutated())
@example(b"")
@example(b"\r\n\r\n")
@example(invite(Via=" "))
@example(invite("Via: SIP/2.0/UDP h;rport", Via=","))
@example(invite(Via='SIP/2.0/UDP h;received=10.0.0.1;x="y"'))
def test_whatever_comes_is_a_message_or_a_wire_error(data: bytes) -> None:
    check_round_trip(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_a_wire_error(data: bytes) -> None:
    check_round_trip(b"OPTIONS sip:a SIP/2.0\r\n" + data)
    check_round_trip(data)


NAMES = st.sampled_from(["X-Note", "Subject", "Route", "Contact", "Allow", "Warning"])
VALUES = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=40).map(lambda text: text.strip(" "))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.binary(max_size=200))
def test_what_is_built_is_parsed_again(fields: list[tuple[str, str]], body: bytes) -> None:
    base = request()
    message = Request(Headers((*base.headers.fields, *fields)), body, "INVITE", "sip:agent@example.org")
    assert parse(bytes(message)) == message


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([invite(), invite(body="x" * 900), PING, b"\r\n", torture("wsinv"), b"junk\r\n\r\n"])),
    st.lists(st.integers(1, 500)),
)
def test_framing_does_not_depend_on_chunks(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)

    def frame(chunks: list[bytes]) -> tuple[list[bytes], bool]:
        framer, messages = Framer(), []
        try:
            for chunk in chunks:
                for message in framer.feed(chunk):
                    messages.append(message)
        except StreamError:
            return messages, True
        return messages, False

    chunks, at = [], 0
    for cut in cuts:
        chunks.append(data[at : at + cut])
        at += cut
    assert frame([*chunks, data[at:]]) == frame([data]) == frame([bytes([byte]) for byte in data])


# --- streams -------------------------------------------------------------------------------------------------------


def test_three_writes_and_two_in_one_write() -> None:
    framer, data = Framer(), invite(body="v=0\r\n")
    assert list(framer.feed(data[:50])) == []
    assert framer.partial
    assert list(framer.feed(data[50:-2])) == []
    assert list(framer.feed(data[-2:])) == [data]
    assert not framer.partial
    assert list(framer.feed(data + data)) == [data, data]


def test_a_ping_is_given_and_a_pong_is_not() -> None:
    framer = Framer()
    assert list(framer.feed(PING)) == [PING]
    assert list(framer.feed(b"\r\n")) == []
    assert not framer.partial
    assert list(framer.feed(invite())) == [invite()]


@pytest.mark.parametrize("length", ["-", "x", "-5", str(MAX_BODY + 1), "9" * 3000])
def test_a_stream_without_a_length_is_closed(length: str) -> None:
    framer = Framer()
    with pytest.raises(StreamError, match="Content-Length"):
        list(framer.feed(invite(Content_Length=length)))


def test_a_header_that_never_ends_is_closed() -> None:
    framer = Framer()
    assert list(framer.feed(b"x" * (MAX_HEAD + 3))) == []
    with pytest.raises(StreamError, match="header"):
        list(framer.feed(b"x"))


# --- cost ----------------------------------------------------------------------------------------------------------

BUDGET_S = 0.020 * 3
"""Reference: any 64 KiB message in 20 ms; times three, because the machine of a test is a shared one."""


def fill(line: str, unit: str, size: int = 4000) -> str:
    return line.replace("@", unit * (size // len(unit)), 1)


HOSTILE = {
    "spaces in Via": {"Via": fill("SIP/2.0/UDP h@;x", " ")},
    "spaces before Via host": {"Via": fill("SIP/2.0/UDP@!", " ")},
    "Via labels": {"Via": fill("SIP/2.0/UDP @!;branch=1", "a.")},
    "Via parameters": {"Via": fill("SIP/2.0/UDP h@", ";a=b")},
    "Via quotes": {"Via": fill('SIP/2.0/UDP h;a="@', '\\"')},
    "telephone digits": {"start": fill("INVITE tel:@! SIP/2.0", "1"), "To": fill("<tel:@!>", "1")},
    "host labels": {"To": fill("<sip:a@!>".replace("@", "x", 1).replace("x", "x.@", 1), "a.")},
    "host hyphens": {"From": fill("<sip:@!>", "a-")},
    "escapes in user": {"To": fill("<sip:@%4>", "%41")},
    "URI parameters": {"To": fill("<sip:a;@%>", ";a=b")},
    "display name spaces": {"From": fill("a@b <sip:c", " ")},
    "display name quotes": {"From": fill('"@ <sip:c>', '\\"')},
    "open quote": {"To": fill('@<sip:a@b>', '"')},
    "brackets": {"To": fill("@", "<")},
    "IPv6 groups": {"To": fill("<sip:a[@]>", "1:")},
    "parameters": {"To": fill("<sip:ab.c>@", ";a ")},
    "commas": {"Contact": fill("@", ", ")},
    "CSeq zeros": {"CSeq": fill("@1 INVITE", "0")},
    "Content-Length zeros": {"Content_Length": fill("@0", "0")},
}  # fmt: skip


def seconds_of(data: bytes) -> float:
    started = time.process_time()
    check_round_trip_once(data)
    return time.process_time() - started


def check_round_trip_once(data: bytes) -> None:
    try:
        message = parse(data)
    except WireError:
        return
    if isinstance(message, Request):
        received_from(message, "192.0.2.1", 9)
    _ = message.contact, message.headers.options("Require")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_cost_little(name: str) -> None:
    data = invite("X: y", **HOSTILE[name]) + b"z" * 1000
    assert min(seconds_of(data) for _ in range(3)) < BUDGET_S


LONG_LINES = {
    "lines": "X: y\r\n" * 12_000,
    "folding": "X: y\r\n" + " z\r\n" * 15_000,
    "one line": "X: " + "y" * 60_000 + "\r\n",
    "blanks": " " * 60_000,
    "fields": "\r\n".join("Via: " + "SIP/2.0/UDP h;a=b, " * 200 for _ in range(4)) + "\r\n",
    "quotes": "\r\n".join("Contact: " + '"\\"" <sip:a@b>,' * 250 for _ in range(4)) + "\r\n",
    "vias": "\r\n".join("Via: SIP/2.0/UDP h;branch=" + "b" * 350 for _ in range(38)) + "\r\n",
}


@pytest.mark.parametrize("name", LONG_LINES)
def test_64_kib_cost_little(name: str) -> None:
    head, blank, _ = invite().partition(b"\r\n\r\n")
    data = head + b"\r\n" + LONG_LINES[name].encode() + blank
    data += b"z" * (65_535 - len(data))
    assert min(seconds_of(data) for _ in range(3)) < BUDGET_S


def test_a_body_that_drips_in_is_measured_once() -> None:
    framer, data = Framer(), invite("X: " + "y" * 4000, "Z: " + "y" * 4000, body="b" * 20_000)
    started = time.process_time()
    messages = [message for at in range(0, len(data), 10) for message in framer.feed(data[at : at + 10])]
    assert messages == [data]
    assert time.process_time() - started < 1.0
