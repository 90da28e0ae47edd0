"""Names in the environment <-> fields of a schema.

Lists are comma-separated or JSON; a text may be given as a file, `…_FILE`; names in maps (`VOIPAGENT_<MAP>__<NAME>__…`)
are lower-cased. A `VOIPAGENT_` name that is none is an error that names the nearest one: a misspelt limit that silently
does nothing is found out on the day it is needed.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from voipagent.kinds import PortRange

PREFIX = "VOIPAGENT_"
NEST = "__"
FILE = "_FILE"


class SettingsError(Exception):
    """The environment cannot be used. One line for each fault: which name, what is wrong, what would be right."""


def variable(path: Iterable[str]) -> str:
    """The environment variable of a setting, where "*" stands for any name in a map."""
    return PREFIX + NEST.join("<NAME>" if part == "*" else part.upper() for part in path)


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the schema: its path, where "*" stands for a name in a map, and its field."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """The environment variable."""
        return variable(self.path)

    @property
    def is_text(self) -> bool:
        """Whether it may be given as a file."""
        return bool({str, SecretStr} & {self.field.annotation, *get_args(self.field.annotation)})

    @property
    def is_list(self) -> bool:
        """Whether commas part it."""
        return get_origin(self.field.annotation) in (tuple, list, frozenset, set)

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether `path` names this setting."""
        return len(path) == len(self.path) and all(w in ("*", p) for w, p in zip(self.path, path, strict=True))


def schema(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting under `model`, depth first, in the order of declaration."""
    for name, field in model.model_fields.items():
        section, path = _section(field.annotation), (*prefix, field.alias or name)
        if section is None:
            yield Setting(path, field)
        else:
            yield from schema(section, (*path, "*") if get_origin(field.annotation) is dict else path)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field nests: itself, or the values of a map."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    if get_origin(annotation) in (Union, types.UnionType) or not isinstance(annotation, type):
        return None
    return annotation if issubclass(annotation, BaseModel) and annotation is not PortRange else None


def nest(environ: Mapping[str, str], model: type[BaseModel]) -> dict[str, Any]:
    """The VOIPAGENT_ part of an environment as nested values for `model`. Raises SettingsError; empty means unset."""
    settings, faults = list(schema(model)), []
    values: dict[str, Any] = {}
    for name in sorted(n for n in environ if n.startswith(PREFIX) and environ[n] != ""):
        try:
            path, value = _read(name, environ, settings)
        except SettingsError as error:
            faults.append(str(error))
            continue
        target = values
        for part in path[:-1]:
            target = target.setdefault(part, {})
        target[path[-1]] = value
    if faults:
        raise SettingsError("\n".join(faults))
    return values


def _read(name: str, environ: Mapping[str, str], settings: list[Setting]) -> tuple[tuple[str, ...], object]:
    """One variable as (path, value)."""
    path, text = _path(name), environ[name]
    setting = _find(path, settings)
    if setting is None and name.endswith(FILE):
        path = _path(name.removesuffix(FILE))
        setting = _find(path, settings)
        if setting is not None and not setting.is_text:
            raise SettingsError(f"{name}: only texts can be read from a file; set {name.removesuffix(FILE)} itself")
        if setting is not None and environ.get(name.removesuffix(FILE)):
            raise SettingsError(f"{name}: {name.removesuffix(FILE)} is set as well; keep one of the two")
        text = _file(name, text) if setting is not None else text
    if setting is None:
        raise SettingsError(f"{name} is not a setting{_nearest(name, settings)}")
    return path, _list(name, text) if setting.is_list else text


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(PREFIX).lower().split(NEST))


def _find(path: tuple[str, ...], settings: list[Setting]) -> Setting | None:
    return next((setting for setting in settings if setting.matches(path)), None)


def _nearest(name: str, settings: list[Setting]) -> str:
    near = difflib.get_close_matches(name, [setting.name for setting in settings], n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""


def _file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: cannot read {path!r}: {error}") from None


def _list(name: str, text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name}: neither a comma-separated list nor JSON: {error}") from None
    return list(value)


def fault_line(fault: Any) -> str:
    """A validation error in one line, by the name of the variable."""
    parts = [part for part in fault["loc"] if isinstance(part, str)]
    return f"{variable(parts)}: {fault['msg'].removeprefix('Value error, ')}"


# --- telling them -----------------------------------------------------------------------------------------------------


def effective(settings: BaseModel) -> Iterator[tuple[str, str]]:
    """Every setting as (variable, value), secrets masked."""
    return _told(settings.model_dump(mode="python", by_alias=True), ())


def _told(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _told(inner, (*path, key))
    else:
        yield variable(path), text_of(value)


def text_of(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ",".join(text_of(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
