"""A run under coverage guidance: `python -m tests.fuzz.guided wire --seconds 600`. Needs `pip install -e '.[fuzz]'`.

Begins from the kept corpus and the seeds, and keeps the smallest set of inputs that reaches all that was reached. An
input that fails is left as `crash-*`, which `python -m tests.fuzz.guided wire --replay FILE` runs again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from tests.fuzz import corpus

TARGETS = ("wire", "sdp", "digest", "dtmf", "media")

LONGEST = {"wire": 2048, "sdp": 2048, "digest": 512, "dtmf": 180, "media": 1024}
"""Bytes of an input. What only length can break is the mutator's to find."""

Trace: TypeAlias = Callable[[FrameType, str, Any], Any]

_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main() -> None:
    """One run, its tally, and the corpus that it leaves."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("target", choices=TARGETS)
    arguments.add_argument("--seconds", type=int, default=600)
    arguments.add_argument("--replay", type=Path, help="run one input, without guidance")
    arguments.add_argument("--inside", nargs="*", help=argparse.SUPPRESS)
    told = arguments.parse_args()
    if told.replay:
        from tests.fuzz.targets import TARGETS as functions

        functions[told.target](told.replay.read_bytes())
    elif told.inside is not None:
        inside(told.target, [f"-{option}" if "=" in option else option for option in told.inside])
    else:
        run(told.target, told.seconds)


def run(target: str, seconds: int) -> None:
    """In a process of its own, which the fuzzer ends as it likes; then keep what is worth it."""
    with tempfile.TemporaryDirectory() as folder:
        found, words = Path(folder) / "found", Path(folder) / "words"
        found.mkdir()
        for number, data in enumerate(seeds(target)):
            (found / f"seed-{number:04}").write_bytes(data)
        words.write_text(_dictionary(target) or "# none\n")
        limits = [f"max_total_time={seconds}", f"max_len={LONGEST[target]}", "timeout=5", "rss_limit_mb=2048"]
        said = _fuzz(target, *limits, "print_final_stats=1", f"dict={words}", str(found))
        tried = _DONE.search(said)
        inputs = [file.read_bytes() for file in found.iterdir()]
    least = smallest(target, inputs)
    size = corpus.save(target, least)
    print(f"{target}: {tried[1] if tried else '?'} inputs tried, {len(least)} of {len(inputs)} kept in {size} bytes")


def _fuzz(target: str, *options: str) -> str:
    command = [sys.executable, "-m", "tests.fuzz.guided", target, "--inside", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        sys.exit(f"{said[-6000:]}\n{target}: ended with {done.returncode}")
    return said


def inside(target: str, options: list[str]) -> None:
    """The fuzzer itself, with our own code instrumented."""
    import atheris

    with atheris.instrument_imports(include=["signaling", "media", "sipmessage", "aiortc.rtp"]):
        from tests.fuzz.targets import TARGETS as functions
    atheris.Setup([sys.argv[0], *options], functions[target])
    atheris.Fuzz()


def smallest(target: str, inputs: list[bytes]) -> list[bytes]:
    """Those that take a step of our code which none shorter than them takes: from which line to which."""
    from tests.fuzz.targets import TARGETS as functions

    function, steps, kept = functions[target], set[Step](), []
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        taken = steps_of(lambda data=data: function(data))  # type: ignore[misc]  # the loop's own
        if not taken <= steps:
            steps |= taken
            kept.append(data)
    return kept


Step: TypeAlias = tuple[str, int, int]


def steps_of(act: Callable[[], None]) -> set[Step]:
    """Each step within one of our functions: its file, and two lines that follow each other."""
    steps: set[Step] = set()

    def enter(frame: FrameType, _: str, __: object) -> Trace | None:
        file = frame.f_code.co_filename
        if not any(folder in file for folder in ("/signaling/", "/media/")) or "/tests/" in file:
            return None
        before = 0

        def step(frame: FrameType, what: str, _: object) -> Trace:
            nonlocal before
            if what == "line":
                steps.add((file, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        act()
    finally:
        sys.settrace(None)
    return steps


def seeds(target: str) -> list[bytes]:
    """What a run begins from: the kept corpus, and whole examples."""
    kept = corpus.load(target) if corpus.path(target).exists() else []
    return [*kept, *EXAMPLES[target]()]


def _bodies() -> list[bytes]:
    bodies = [data.partition(b"\r\n\r\n")[2] for data in corpus.torture().values()]
    head = b"v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n"
    key = b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20\r\n"
    audio = head + b"m=audio 4000 RTP/%s 0 8 9 101\r\n"
    rest = b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=rtcp:4001\r\na=sendrecv\r\n"
    return [*filter(None, bodies), audio % b"AVP" + rest, audio % b"SAVP" + key + rest, audio % b"AVP" + key]


def _headers() -> list[bytes]:
    credentials = (
        b'Digest username="alice", realm="house", nonce="0.t1.%s", uri="sip:house", algorithm=%s, qop=auth, '
        b'nc=00000001, cnonce="c", response="%s", opaque="o"'
    )
    challenge = b'Digest realm="house", nonce="n", algorithm=%s, qop="auth,auth-int", opaque="o", stale=true'
    names = [(b"MD5", b"0" * 32), (b"SHA-256", b"0" * 64), (b"MD5-sess", b"0" * 32)]
    return [made for name, value in names for made in (credentials % (b"0" * 32, name, value), challenge % name)]


def _events() -> list[bytes]:
    press = b"\x05\0\0\0\1\5\x0a\0\xa0" * 3 + b"\x05\0\0\0\1\5\x8a\3\x20" * 3
    return [press, press.replace(b"\1\5", b"\1\xff"), b"Signal=5\r\nDuration=160\r\n", b"16"]


def _datagrams() -> list[bytes]:
    audio = b"\xac\x80\0\0\1\0\0\0\xa0\0\0\0\7" + b"\xff" * 160
    event = b"\x10\x80\xe5\0\1\0\0\0\xa0\0\0\0\7\5\x8a\3\x20"
    receiver, sender = b"\x21\x80\xc9\0\7" + b"\0" * 28, b"\x1d\x80\xc8\0\6\0\0\0\7" + b"\0" * 20
    return [audio, event * 2, receiver, sender, audio + event + receiver + sender]


EXAMPLES: dict[str, Callable[[], list[bytes]]] = {
    "wire": lambda: list(corpus.torture().values()),
    "sdp": _bodies,
    "digest": _headers,
    "dtmf": _events,
    "media": _datagrams,
}

WORDS = {
    "wire": r"""SIP/2.0|INVITE|ACK|BYE|CANCEL|OPTIONS|REGISTER|UPDATE|INFO|Via: SIP/2.0/UDP |Route: |Record-Route: |
        Contact: *|Contact: |Require: |Session-Expires: |Content-Length: |Content-Encoding: gzip|application/sdp|
        Authorization: Digest |;branch=z9hG4bK|;tag=|;rport|;received=|;lr|;expires=0|self|tel:|sips:|<sip:|[::1]|
        %00|4294967296|2147483648""",
    "sdp": r"""m=audio |m=video 0 |c=IN IP4 |c=IN IP6 |a=rtpmap:|a=crypto:|inline:|RTP/SAVP|RTP/AVP|a=rtcp-mux|a=rtcp:|
        AEAD_AES_256_GCM|UDP/TLS/RTP/SAVPF|a=ptime:|a=maxptime:|a=sendonly|a=inactive|telephone-event/8000|0.0.0.0|
        G722/16000|opus/48000/2|a=fmtp:|WSH=64""",
    "digest": r"""Digest |username=|realm=|nonce=|uri=|response=|algorithm=|SHA-256-sess|qop=|auth-int|nc=|cnonce=|
        opaque=|stale=true|\"|"|, """,
    "dtmf": "Signal=|Duration=|*|#|16",
    "media": "",
}
"""What stands in such texts, for the fuzzer to put in."""


def _dictionary(target: str) -> str:
    words = (word.lstrip("\n ") for word in WORDS[target].split("|"))
    return "".join(f'"{_escaped(word)}"\n' for word in words if word)


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main()
