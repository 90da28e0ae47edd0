"""What signaling has counted since it began, for whoever watches us. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

LOGIN, NO_ANSWER, UNREACHABLE, CERTIFICATE, REFUSED = "login", "no answer", "unreachable", "certificate", "refused"
"""Why something that we asked of a trunk came to nothing: few words, as each is a line in somebody's database."""

_BY_CODE = {401: LOGIN, 403: LOGIN, 407: LOGIN, 408: NO_ANSWER, 503: UNREACHABLE}


def kind_of(code: int) -> str:
    """What a response code says of a failure; 408 and 503 are also told where there was no response at all."""
    return _BY_CODE.get(code, REFUSED)


@dataclass(frozen=True)
class Counts:
    """Numbers that only rise. `dropped` are messages by reason; `trunk_failures` registrations and ways that came to
    nothing, by (trunk, kind), `trunk_refusals` calls of a trunk that it may not make, by (trunk, response code).

    `strangers` are messages and connections from who is on no list, `wrong_passwords` answers to our challenges, and
    `bans` how often that made us deaf for a source. `connections_refused` came from who may connect, but had, or we
    had, too many already.
    """

    dropped: Mapping[str, int] = field(default_factory=Counter)
    strangers: int = 0
    wrong_passwords: int = 0
    bans: int = 0
    trunk_failures: Mapping[tuple[str, str], int] = field(default_factory=Counter)
    trunk_refusals: Mapping[tuple[str, int], int] = field(default_factory=Counter)
    connections_refused: int = 0
