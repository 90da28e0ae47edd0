"""Folders and Hub repositories as sources of files. The Hub is played by a folder."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from engine.model import source as source_module
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.model.source import Folder, _commit, open_source
from engine.slot import CheckpointError
from tests.engine.ears import write_ear

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for `huggingface_hub`: one repository, `owner/model`, in a cache folder as the package lays it out."""

    def __init__(self, snapshot: Path) -> None:
        self.snapshot = snapshot
        self.asked: list[tuple[str, str, str | None]] = []
        self.fails: Callable[[str], Exception | None] = lambda name: None
        self.known_missing: set[str] = set()

    def download(self, repo: str, name: str, revision: str | None = None) -> str:
        self.asked.append((repo, name, revision))
        if error := self.fails(name):
            raise error
        if not (self.snapshot / name).exists():
            raise errors.EntryNotFoundError(f"404: {name}")
        return str(self.snapshot / name)

    def cached(self, repo: str, name: str, revision: str | None = None) -> object:
        return object() if name in self.known_missing else None


@pytest.fixture
def hub(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT
    shutil.copytree(nano, snapshot)
    hub = Hub(snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", hub.cached)
    return hub


def failure(kind: type[Exception], text: str) -> Exception:
    """An error of the package, without the response of its HTTP library, whichever that is."""
    error = kind.__new__(kind, text)
    error.args = (text,)
    return error


def test_a_repository_loads_as_a_folder_does_at_one_commit(hub: Hub) -> None:
    checkpoint = load_checkpoint("owner/model@v1")
    assert checkpoint.revision == f"owner/model@{COMMIT}"
    assert hub.asked[0] == ("owner/model", "config.json", "v1")
    assert {revision for _, _, revision in hub.asked[1:]} == {COMMIT}
    assert {name for _, name, _ in hub.asked} == {path.name for path in hub.snapshot.iterdir()} | {"voices.tgz"}


def test_the_commit_is_read_from_the_cache_wherever_that_lies(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "hub" / "models--owner--model" / "snapshots" / COMMIT
    assert _commit(snapshot / "voices" / "a.pt") == COMMIT
    assert _commit(tmp_path / "snapshots" / "downloads" / "config.json") is None


def test_a_folder_asks_nobody(hub: Hub, nano: Path) -> None:
    load_checkpoint(str(nano))
    assert hub.asked == []


def test_a_folder_whose_config_names_a_repository_asks_it(hub: Hub, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.get("hf://owner/model/mimi.json") == hub.snapshot / "mimi.json"
    assert folder.get(f"file://{hub.snapshot}/mimi.json") == hub.snapshot / "mimi.json"
    for name in ("hf://owner/model", "file:///nowhere", "ftp://x"):
        with pytest.raises(CheckpointError, match=name):
            folder.get(name)


def test_a_repository_without_config_is_moshi_7b(hub: Hub) -> None:
    (hub.snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match="holds no 'tokenizer-e351c8d8-checkpoint125.safetensors'"):
        load_checkpoint("owner/model")


def test_offline_a_repository_without_config_is_known_from_the_last_time(hub: Hub) -> None:
    hub.fails = lambda name: errors.LocalEntryNotFoundError("offline") if name == "config.json" else None
    source = open_source("owner/model")
    with pytest.raises(
        CheckpointError, match="cannot fetch 'config.json' of the Hub repository owner/model@main: offline"
    ):
        source.find("config.json")
    hub.known_missing = {"config.json"}
    assert source.find("config.json") is None


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (failure(errors.GatedRepoError, "x"), "is gated: accept its terms there, and set HF_TOKEN"),
        (failure(errors.RepositoryNotFoundError, "x"), "no folder 'owner/model', and no Hub repository"),
        (failure(errors.RevisionNotFoundError, "x"), "has no revision 'v1'"),
        (failure(errors.HfHubHTTPError, "500 Server Error\nmore"), "500 Server Error$"),
        (errors.OfflineModeIsEnabled("offline mode is enabled"), "offline mode is enabled"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_why_a_repository_cannot_be_had_is_one_line(hub: Hub, error: Exception, complaint: str) -> None:
    hub.fails = lambda name: error
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load_checkpoint("owner/model@v1")
    assert "\n" not in str(caught.value)


def test_nothing_is_asked_of_what_is_no_repositorys_name(hub: Hub) -> None:
    for name in ("nowhere", "a/b/c", "./x/y", "a b/c", ""):
        with pytest.raises(CheckpointError, match="no folder"):
            open_source(name)
    assert hub.asked == []


def test_the_ear_of_a_repository_is_of_the_models_commit(hub: Hub) -> None:
    checkpoint = load_checkpoint("owner/model")
    assert load_ear("owner/model", checkpoint) is None
    write_ear(hub.snapshot)
    hub.asked.clear()
    ear = load_ear("owner/model", checkpoint)
    assert ear is not None
    assert hub.asked == [("owner/model", name, COMMIT) for name in ("ear.json", "ear.safetensors")]


def test_who_works_offline_goes_on_without_an_ear_that_was_never_fetched(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fails = lambda name: errors.LocalEntryNotFoundError("offline") if name == "ear.json" else None
    assert load_ear("owner/model", load_checkpoint("owner/model")) is None
    assert "words are not written down: cannot fetch 'ear.json'" in caplog.text


# --- voices --------------------------------------------------------------------------------------------------------


def pack(path: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """A .tgz of files, and of things that are none."""
    with tarfile.open(path, "w:gz") as packed:
        for name, kind in (("voices", tarfile.DIRTYPE), ("voices/link.pt", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            packed.addfile(member)
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


PACKED = [
    ("voices/NATF0.pt", b"one"),
    ("voices/._NATF0.pt", b"a Mac's"),
    ("../../NATM0.pt", b"two"),
    ("voices/README.md", b"no voice"),
]


def test_voices_of_a_repository_are_those_of_its_archive(hub: Hub) -> None:
    source = open_source("owner/model")
    assert source.voices() == []
    pack(hub.snapshot / "voices.tgz", PACKED)
    before = sorted(hub.snapshot.rglob("*"))
    voices = source.voices()
    assert [(voice.name, voice.kind, voice.content) for voice in voices] == [
        ("NATF0", ".pt", b"one"),
        ("NATM0", ".pt", b"two"),
    ]
    assert voices[0].place.endswith("voices.tgz/voices/NATF0.pt")
    assert sorted(hub.snapshot.rglob("*")) == before  # nothing was written, inside or outside


def test_voices_of_a_folder_lie_in_it_or_in_its_archive(tmp_path: Path) -> None:
    """Of one name, the file stands; and a recording before a state."""
    pack(tmp_path / "voices.tgz", [*PACKED, ("voices/ada.wav", b"recorded")])
    (tmp_path / "voices").mkdir()
    for name in ("NATF0.pt", "ada.pt", "README.md", ".hidden.pt"):
        (tmp_path / "voices" / name).write_bytes(b"filed")
    voices = [(voice.name, voice.kind, voice.content) for voice in Folder(tmp_path).voices()]
    assert voices == [("NATF0", ".pt", b"filed"), ("NATM0", ".pt", b"two"), ("ada", ".wav", b"recorded")]


def test_an_archive_that_is_none_or_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "voices.tgz"
    pack(archive, [("voices/a.pt", bytes(range(256)) * 400)])
    whole = archive.read_bytes()
    for torn in (b"", b"no archive", whole[: len(whole) // 2]):
        archive.write_bytes(torn)
        with pytest.raises(CheckpointError, match=r"voices\.tgz' is no whole archive of voices"):
            Folder(tmp_path).voices()
    archive.write_bytes(whole)
    monkeypatch.setattr(source_module, "MOST_BYTES", 100_000)
    with pytest.raises(CheckpointError, match=r"voices\.tgz' holds too much: 'voices/a.pt'"):
        Folder(tmp_path).voices()
    archive.unlink()
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "a.pt").write_bytes(bytes(100_001))
    with pytest.raises(CheckpointError, match=r"a\.pt' is larger than 0 MiB"):
        Folder(tmp_path).voices()


def test_who_works_offline_goes_on_without_voices_that_were_never_fetched(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fails = lambda name: errors.LocalEntryNotFoundError("offline") if name == "voices.tgz" else None
    assert load_checkpoint("owner/model").voices == {}
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("x there are no voices beside the weights: cannot fetch 'voices.tgz'")
