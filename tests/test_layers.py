"""The imports run one way: three pillars that do not know each other, and a roof."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PILLARS = ("signaling", "media", "engine")
FILES = sorted(
    path.relative_to(ROOT)
    for package in (*PILLARS, "voipagent")
    for path in (ROOT / package).rglob("*.py")
    if "recipe" not in path.parts
)
PURE = {
    *("signaling/sip/capabilities.py", "signaling/sip/grammar.py", "signaling/sip/message.py", "signaling/sip/wire.py"),
    *("signaling/sip/alarms.py", "signaling/sip/buckets.py", "signaling/sip/events.py", "signaling/sip/info.py"),
    *("signaling/sip/reason.py", "signaling/sip/sessiontimer.py", "signaling/sip/transaction.py"),
    *("signaling/sip/transactions.py", "signaling/sip/dialog.py", "signaling/sip/calls.py", "signaling/sip/changes.py"),
    *(
        "signaling/sip/useragent.py",
        "signaling/sip/digest.py",
        "signaling/sip/granted.py",
        "signaling/sip/guard.py",
        "signaling/sip/registration.py",
        "signaling/sip/registrar.py",
        "signaling/sip/resolve.py",
        "signaling/sip/trunk.py",
        "signaling/sip/outbound.py",
        "signaling/sip/admission.py",
        "signaling/sip/keeper.py",
        "signaling/sip/probe.py",
    ),
    *(
        "signaling/sip/early.py",
        "signaling/sip/offers.py",
        "signaling/sip/way.py",
        "signaling/sip/refer.py",
        "signaling/sip/replaces.py",
        "signaling/sip/requests.py",
        "signaling/sip/sipfrag.py",
    ),
    *("media/icesdp.py", "media/iceservers.py"),
    *("media/sdp.py", "media/stream.py", "media/keying.py", "media/negotiation.py", "media/describer.py"),
    *("media/dtmf.py", "media/tones.py", "media/latch.py", "media/rtcp.py"),
    *("media/sender.py", "media/receiver.py", "media/delay.py", "media/crypto.py", "media/srtp.py", "media/secure.py"),
    *("media/pcm.py", "media/codec.py", "media/opus.py", "media/dtls.py", "media/concealment.py"),
    *("media/playout.py", "media/incoming.py", "media/outgoing.py", "media/mixer.py", "media/tracks.py"),
    "signaling/meetings/place.py",
    *(
        "engine/scheduler.py",
        "engine/admission.py",
        "voipagent/context.py",
        "voipagent/words.py",
        "voipagent/bargein.py",
    ),
    *("voipagent/transcript.py", "voipagent/turns.py", "voipagent/longest.py"),
}
CONCRETE = {"signaling.sip.endpoint", "signaling.whip", "media.answer", "engine.local", "engine.echo", "engine.remote"}
NOUNS = {"signaling.call", "media.leg", "engine.slot"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, deferred ones too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield from {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def ids(path: Path) -> str:
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_pillars_do_not_know_each_other_nor_the_roof(path: Path) -> None:
    pillar = path.parts[0]
    if pillar in PILLARS:
        assert not tops(path) & ({*PILLARS, "voipagent"} - {pillar})


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_libraries_stay_in_their_room(path: Path) -> None:
    room = path.parts[0]
    if room != "engine":
        assert not {"torch", "triton", "safetensors", "sentencepiece"} & tops(path)
    if room != "media" and path.parts[:2] != ("voipagent", "lab"):
        assert not {"aiortc", "pylibsrtp"} & tops(path)
    if room != "signaling" and path.parts[:2] != ("voipagent", "lab"):
        assert "sipmessage" not in tops(path)


@pytest.mark.parametrize("path", [path for path in FILES if str(path) in PURE or "model" in path.parts], ids=ids)
def test_pure_cores_do_no_io(path: Path) -> None:
    assert not {"asyncio", "socket", "threading", "time", "selectors"} & tops(path)


@pytest.mark.parametrize("path", [ROOT / (name.replace(".", "/") + ".py") for name in sorted(NOUNS)], ids=ids)
def test_the_nouns_stand_on_the_standard_library_and_numpy(path: Path) -> None:
    allowed = {"__future__", "collections", "contextlib", "dataclasses", "enum", "typing", "numpy"}
    assert tops(path) <= allowed


def test_only_app_and_engines_name_the_concrete_parts() -> None:
    roof = [path for path in FILES if path.parts[0] == "voipagent" and path.parts[1] != "lab"]
    users = {str(path) for path in roof if CONCRETE & set(imports(path))}
    assert users <= {"voipagent/app.py", "voipagent/engines.py"}


def test_the_session_sees_only_the_nouns() -> None:
    seen = set(imports(Path("voipagent/session.py")))
    assert not {name for name in seen if name.partition(".")[0] in PILLARS} - {
        name for noun in NOUNS for name in seen if name == noun or name.startswith(noun + ".")
    }


def test_no_two_files_import_each_other() -> None:
    graph = {str(path).removesuffix(".py").replace("/", "."): set(imports(path)) for path in FILES}
    for name, seen in graph.items():
        for other in seen & graph.keys():
            assert name not in graph[other] or name == other, f"{name} and {other} import each other"
