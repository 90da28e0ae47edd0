"""A Hub repository, fetched by huggingface_hub itself from a server on loopback that `HF_ENDPOINT` names.

Each fetch is a process of its own, for the package reads its environment once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}
FILES = {"config.json": b'{"dim": 64}', "weights.bin": bytes(range(256)) * (12 << 12)}  # 12 MiB
VOICES = {"voices/NATF0.pt": b"a voice", "voices/NATM0.pt": b"another"}

FETCH = """
import sys
from engine.model.source import open_source
from engine.slot import CheckpointError
source = open_source(sys.argv[1])
try:
    for name in sys.argv[2:]:
        if name == "voices":
            print([(voice.name, voice.content) for voice in source.voices()])
            continue
        path = source.find(name)
        print(path if path is None else f"{path} {path.stat().st_size}")
    print(source.revision([]))
except CheckpointError as error:
    print(f"CheckpointError: {error}")
"""


class Hub(ThreadingHTTPServer):
    """One repository, `owner/model`, at two commits. `refuses` is what it says instead: a status and an error code."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str | None]] = []
        self.refuses: tuple[int, str] | None = None
        self.cut_at: int | None = None
        self.cuts_always = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *values: object) -> None:
        """Nobody reads it."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Range"]))
        if self.server.refuses:
            return self._refuse(*self.server.refuses)
        if (found := re.fullmatch("/owner/model/resolve/([^/]+)/(.+)", self.path)) is None:
            return self._refuse(404, "RepoNotFound")
        revision, name = found.groups()
        if revision not in REVISIONS:
            return self._refuse(404, "RevisionNotFound")
        if name not in FILES:
            return self._refuse(404, "EntryNotFound", REVISIONS[revision])
        content, start = FILES[name], 0
        if asked := self.headers["Range"]:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", REVISIONS[revision])
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self._send(content[start:])

    def _send(self, content: bytes) -> None:
        cut = self.server.cut_at
        self.server.cut_at = cut if self.server.cuts_always else None
        self.wfile.write(content[:cut])
        self.close_connection = True

    def _refuse(self, status: int, code: str, commit: str = COMMIT) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} it is")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def fetch(hub: Hub, home: Path, model: str, *names: str, **environ: str) -> list[str]:
    """What a process that asks for these files prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environ = {
        **inherited,
        **{"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "*"},
        **environ,
    }
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", FETCH, model, *names]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout.splitlines()


def test_a_revision_is_pinned_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    first, second, revision = fetch(hub, tmp_path, "owner/model@v1", "config.json", "weights.bin")
    assert f"snapshots/{OLDER}/config.json" in first and f"snapshots/{OLDER}/weights.bin" in second
    assert second.endswith(f" {12 << 20}")
    assert revision == f"owner/model@{OLDER}"
    assert {path.split("/")[4] for _, path, _ in hub.asked if path.endswith("weights.bin")} == {OLDER}


def test_a_download_that_breaks_off_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = 11 << 20  # what has come is written in pieces of 10 MiB
    path, revision = fetch(hub, tmp_path, "owner/model", "weights.bin")
    assert revision == f"owner/model@{COMMIT}"
    assert Path(path.rpartition(" ")[0]).read_bytes() == FILES["weights.bin"]
    ranges = [asked for command, path, asked in hub.asked if command == "GET" and path.endswith("weights.bin")]
    assert len(ranges) == 2 and ranges[0] is None and ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").partition("-")[0]) <= 11 << 20


def test_a_download_that_breaks_off_for_good_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at, hub.cuts_always = 3, True
    (line,) = fetch(hub, tmp_path, "owner/model", "config.json")
    assert line.startswith("CheckpointError: cannot fetch 'config.json' of the Hub repository owner/model@main: ")


def test_a_file_that_is_not_there_is_none(hub: Hub, tmp_path: Path) -> None:
    """And known from then on, also offline."""
    assert fetch(hub, tmp_path, "owner/model", "ear.json")[0] == "None"
    assert fetch(hub, tmp_path, "owner/model", "ear.json", HF_HUB_OFFLINE="1")[0] == "None"


@pytest.mark.parametrize(
    ("refuses", "model", "complaint"),
    [
        (
            (401, "GatedRepo"),
            "owner/model",
            "the Hub repository owner/model is gated: accept its terms there, and set HF_TOKEN",
        ),
        (
            (403, "GatedRepo"),
            "owner/model",
            "the Hub repository owner/model is gated: accept its terms there, and set HF_TOKEN",
        ),
        (
            (404, "RepoNotFound"),
            "owner/model",
            "there is no folder 'owner/model', and no Hub repository of that name either",
        ),
        (
            (401, "RepoNotFound"),
            "owner/model",
            "there is no folder 'owner/model', and no Hub repository of that name either",
        ),
        (None, "owner/model@v9", "the Hub repository owner/model has no revision 'v9'"),
        ((400, "BadRequest"), "owner/model", "cannot fetch 'config.json' of the Hub repository owner/model@main: "),
    ],
)
def test_why_it_cannot_be_had_is_one_line(
    hub: Hub, tmp_path: Path, refuses: tuple[int, str] | None, model: str, complaint: str
) -> None:
    hub.refuses = refuses
    (line,) = fetch(hub, tmp_path, model, "config.json")
    assert line.startswith(f"CheckpointError: {complaint}")


def test_offline_what_was_fetched_is_found_and_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    online = fetch(hub, tmp_path, "owner/model", "config.json")
    assert json.loads(Path(online[0].rpartition(" ")[0]).read_text()) == {"dim": 64}
    hub.asked.clear()
    assert fetch(hub, tmp_path, "owner/model", "config.json", HF_HUB_OFFLINE="1") == online
    assert hub.asked == []
    (line,) = fetch(hub, tmp_path, "owner/model", "weights.bin", HF_HUB_OFFLINE="1")
    assert line.startswith("CheckpointError: cannot fetch 'weights.bin' of the Hub repository owner/model@main: ")
    assert hub.asked == []


def test_with_the_hub_out_of_reach_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    online = fetch(hub, tmp_path, "owner/model", "config.json")
    closed = "http://127.0.0.1:1"  # a port that nobody listens on
    assert fetch(hub, tmp_path, "owner/model", "config.json", HF_ENDPOINT=closed) == online
    (line,) = fetch(hub, tmp_path / "empty", "owner/model", "config.json", HF_ENDPOINT=closed)
    assert line.startswith("CheckpointError: cannot fetch 'config.json' of the Hub repository owner/model@main: ")


def test_voices_come_in_one_archive_as_personaplex_publishes_them(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are there offline, once they were fetched; and known not to be, where there is none."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in VOICES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert fetch(hub, tmp_path / "without", "owner/model", "voices")[0] == "[]"
    monkeypatch.setitem(FILES, "voices.tgz", packed.getvalue())
    online = fetch(hub, tmp_path, "owner/model@v1", "voices")
    assert online == ["[('NATF0', b'a voice'), ('NATM0', b'another')]", f"owner/model@{OLDER}"]
    hub.asked.clear()
    assert fetch(hub, tmp_path, "owner/model@v1", "voices", HF_HUB_OFFLINE="1") == online
    assert fetch(hub, tmp_path / "without", "owner/model", "voices", HF_HUB_OFFLINE="1")[0] == "[]"
    assert hub.asked == []
