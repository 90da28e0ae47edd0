"""Addresses that ICE pairs: ours as we tell them, and the far end's as we take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import get_host_addresses

from media.stream import is_loopback

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def own_addresses(host: str, advertised: Mapping[int, str]) -> dict[int, list[str]]:
    """What we are reached by, by the version of IP: the advertised address, or all of the machine's.

    `host` is where signalling comes from: who is on this very machine reaches us by the loopback too.
    """
    found: dict[int, list[str]] = {}
    for version in (4, 6):
        hosts = [advertised[version]] if version in advertised else get_host_addresses(version == 4, version == 6)
        if is_loopback(host) and (hosts or version == 4):
            hosts = [*hosts, _LOOPBACK[version]]
        if hosts:
            found[version] = hosts
    return found


def host_candidates(hosts: Sequence[str], port: int) -> list[Candidate]:
    """Of a port that is open at all of these addresses, the best first."""
    return [
        Candidate(
            candidate_foundation("host", "udp", host),
            1,
            "udp",
            candidate_priority(1, "host", 65_535 - place),
            host,
            port,
            "host",
        )
        for place, host in enumerate(hosts)
    ]


def read_candidate(text: str, host: str) -> Candidate | None:
    """A candidate that we can try; None for what is none, for TCP, for a name, and for who is not one host.

    A zone (RFC 4007) would be taken for an interface of ours. A name under .local hides an address: who has it sends to
    us, and is seen then. `host` is where signalling comes from: only from this machine may it be this machine.
    """
    try:
        candidate = Candidate.from_sdp(text)
        address = ip_address(candidate.host)
    except ValueError:
        return None
    if "%" in candidate.host or address.is_multicast or address.is_unspecified:
        return None
    if address.is_loopback and not is_loopback(host):
        return None
    usable = candidate.component == 1 and candidate.transport.lower() == "udp" and 0 < candidate.port <= 65_535
    return candidate if usable and candidate.type in ("host", "srflx", "prflx", "relay") else None
