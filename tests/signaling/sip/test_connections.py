"""connections.py: how many a source may have, whatever its address ends in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from signaling.sip.connections import MAX_PER_SOURCE, Connections


def connections(refused: list[str] | None = None) -> Connections:
    """Of an agent that hears everybody."""
    told = refused if refused is not None else []
    return Connections(
        lambda host: True, lambda data, flow: None, lambda flow: False, lambda *route: ("::1", 5060), told.append
    )


def opened() -> Any:
    """A stream that a peer has opened, as far as it matters here."""
    return SimpleNamespace(target=None, protocol="TCP", certificate={})


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("2001:db8::7", "2001:db8::ffff", "2001:db8:0:1::7"),
    ],
)
def test_a_source_has_so_many_connections_and_no_more(one: str, same: str, other: str) -> None:
    refused: list[str] = []
    kept = connections(refused)
    flows = [kept.add(opened(), (one, 40_000 + number), 5060) for number in range(MAX_PER_SOURCE)]
    assert kept.add(opened(), (same, 50_000), 5060) is None and refused == [same]
    assert kept.is_full(same) and not kept.may_shake(same)
    assert kept.add(opened(), (other, 40_000), 5060) is not None
    for flow in flows:
        assert flow is not None
        kept.remove(flow)
    assert not kept.is_full(same)
