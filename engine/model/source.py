"""Where a checkpoint's files lie: a folder of this machine, or a repository on the Hub, fetched once and then cached.

A Hub repository is only asked where one is named, `owner/name[@revision]`; `HF_HUB_OFFLINE`, `HF_HOME`, `HF_TOKEN` and
`HF_ENDPOINT` mean what they mean to `huggingface_hub`.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from engine.slot import CheckpointError

REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")

VOICES = "voices"
"""A folder of voices beside the weights."""

ARCHIVE = "voices.tgz"
"""The same in one file, as PersonaPlex is published."""

RECORDING = ".wav"
STATE = ".pt"
"""Suffixes of a voice's file: somebody speaking, or what the model makes of that."""

MOST_BYTES = 64 << 20
MOST_MEMBERS = 1_000
"""Of a voice, and of an archive: what is far more is none, whatever it was packed to."""

SAMPLED_BYTES = 1 << 16
SAMPLES = 16
"""A weights file is told from another by its size and this many pieces of it: 15 GB are not read twice."""


@dataclass(frozen=True, slots=True)
class VoiceFile:
    """A voice as it is stored: what it is called, where it lies, and the bytes."""

    name: str
    place: str
    content: bytes

    @property
    def kind(self) -> str:
        """The suffix: RECORDING or STATE."""
        return PurePosixPath(self.place).suffix

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> VoiceFile:
        """A file; its stem names the voice unless told otherwise. Raises CheckpointError."""
        try:
            if path.stat().st_size > MOST_BYTES:
                raise CheckpointError(f"the voice {str(path)!r} is larger than {MOST_BYTES >> 20} MiB")
            return cls(path.stem if name is None else name, str(path), path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"the voice {str(path)!r} cannot be read: {error.strerror}") from None


class Source(Protocol):
    """Files by name."""

    def find(self, name: str) -> Path | None:
        """The file, or None if there is none of this name."""

    def get(self, name: str) -> Path:
        """The file. Raises CheckpointError."""

    def voices(self) -> list[VoiceFile]:
        """The voices that lie beside the weights, by name, each once. Raises CheckpointError."""

    def revision(self, paths: Iterable[Path]) -> str:
        """What `paths`, files of this source, hold: exact enough to repeat a call."""


def open_source(model: str) -> Source:
    """The folder or repository that `model` names. Raises CheckpointError if it is neither."""
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return Folder(folder)
    if folder.is_file():
        raise CheckpointError(f"{model!r} is a file; a checkpoint is a folder that holds config.json and the weights")
    if named := REPOSITORY.fullmatch(model):
        return Repository(named[1], named[2])
    raise CheckpointError(
        f"there is no folder {model!r}, nor is that the name of a Hub repository, owner/name[@revision]"
    )


class Folder:
    """A folder. File names in its config.json may also be `file://path` and `hf://owner/name/file`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, name: str) -> Path | None:
        """A file of the folder."""
        path = self._path / name
        return path if path.is_file() else None

    def get(self, name: str) -> Path:
        """A file of the folder, or where `name` points. Raises CheckpointError."""
        if (elsewhere := _elsewhere(name)) is not None:
            return elsewhere
        if (path := self.find(name)) is None:
            raise CheckpointError(f"{str(self._path / name)!r} is missing: the checkpoint is not complete")
        return path

    def voices(self) -> list[VoiceFile]:
        """Those of the folder `voices`, and of the archive beside it. Raises CheckpointError."""
        there = sorted(path for path in (self._path / VOICES).glob("[!.]*") if path.is_file())
        files = [VoiceFile.read(path) for path in there if path.suffix in (RECORDING, STATE)]
        archive = self.find(ARCHIVE)
        return _each_once([*files, *(unpacked(archive) if archive else ())])

    def revision(self, paths: Iterable[Path]) -> str:
        """The folder's name, and a digest of what can be read in no time."""
        digest = hashlib.sha256()
        for path in paths:
            digest.update(_fingerprint(path))
        return f"{self._path.resolve().name}@{digest.hexdigest()[:12]}"


class Repository:
    """A Hub repository. Its first file pins the commit, so that all come from the same."""

    def __init__(self, name: str, revision: str | None) -> None:
        self._name, self._revision = name, revision

    def find(self, name: str) -> Path | None:
        """A file of the repository; None if the Hub says, or said when it was last asked, that there is none."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return self._fetch(name)
        except LocalEntryNotFoundError as error:
            cached = try_to_load_from_cache(self._name, name, revision=self._revision)
            if cached is not None and not isinstance(cached, str):  # the mark of a file that is known not to exist
                return None
            raise self._unreachable(name, error) from error
        except EntryNotFoundError:
            return None

    def get(self, name: str) -> Path:
        """A file of the repository. Raises CheckpointError."""
        if (elsewhere := _elsewhere(name)) is not None:
            return elsewhere
        if (path := self.find(name)) is None:
            raise CheckpointError(f"the Hub repository {self._at} holds no {name!r}")
        return path

    def voices(self) -> list[VoiceFile]:
        """Those of the archive; a repository is fetched file by file, and cannot be looked through."""
        archive = self.find(ARCHIVE)
        return _each_once(unpacked(archive)) if archive else []

    def revision(self, paths: Iterable[Path]) -> str:
        """The repository's name and commit."""
        return self._at

    @property
    def _at(self) -> str:
        return f"{self._name}@{self._revision or 'main'}"

    def _fetch(self, name: str) -> Path:
        """Raises EntryNotFoundError, CheckpointError."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            path = Path(hf_hub_download(self._name, name, revision=self._revision))
        except EntryNotFoundError:
            raise
        except GatedRepoError as error:
            raise CheckpointError(
                f"the Hub repository {self._name} is gated: accept its terms there, and set HF_TOKEN"
            ) from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(
                f"there is no folder {self._name!r}, and no Hub repository of that name either "
                "(a private one needs HF_TOKEN)"
            ) from error
        except RevisionNotFoundError as error:
            raise CheckpointError(f"the Hub repository {self._name} has no revision {self._revision!r}") from error
        except Exception as error:  # a transport that breaks off raises what its own package has, and that changes
            raise self._unreachable(name, error) from error
        self._revision = _commit(path) or self._revision
        return path

    def _unreachable(self, name: str, error: Exception) -> CheckpointError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return CheckpointError(f"cannot fetch {name!r} of the Hub repository {self._at}: {reason}")


def _each_once(files: Iterable[VoiceFile]) -> list[VoiceFile]:
    """By name. The first of a name stands, but a recording before a state: it fits weights of any size."""
    chosen: dict[str, VoiceFile] = {}
    for file in files:
        if file.name not in chosen or (file.kind, chosen[file.name].kind) == (RECORDING, STATE):
            chosen[file.name] = file
    return [chosen[name] for name in sorted(chosen)]


def unpacked(archive: Path) -> Iterator[VoiceFile]:
    """The voices in a .tgz file. Nothing is written: its names lead nowhere. Raises CheckpointError."""
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for number, member in enumerate(packed):
                if number >= MOST_MEMBERS or member.size > MOST_BYTES:
                    raise CheckpointError(f"{str(archive)!r} holds too much: {member.name!r} is one too many, or large")
                path = PurePosixPath(member.name)
                file = packed.extractfile(member) if member.isfile() else None
                if file and path.suffix in (RECORDING, STATE) and not path.name.startswith("."):
                    yield VoiceFile(path.stem, f"{archive}/{path}", file.read())
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise CheckpointError(f"{str(archive)!r} is no whole archive of voices: {error}") from None


def _elsewhere(name: str) -> Path | None:
    """What `file://path` and `hf://owner/name/file` point to; None for a plain name. Raises CheckpointError."""
    kind, scheme, rest = name.partition("://")
    if not scheme:
        return None
    if kind == "hf" and rest.count("/") >= 2:
        owner, repository, file = rest.split("/", 2)
        return Repository(f"{owner}/{repository}", None).get(file)
    if kind == "file":
        if Path(rest).is_file():
            return Path(rest)
        raise CheckpointError(f"{name!r} in config.json is missing")
    raise CheckpointError(f"{name!r} in config.json is no file name, file://path or hf://owner/name/file")


def _commit(path: Path) -> str | None:
    """The commit in a cached file's path: .../snapshots/COMMIT/name."""
    found = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found[1] if found else None


def _fingerprint(path: Path) -> bytes:
    """Size and pieces of a file; all of a small one."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek(sample * max(0, size - SAMPLED_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLED_BYTES))
    return digest.digest()
