"""Names by DNS: the shell under `resolve`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from signaling.sip.resolve import Found, Kind, LookUpFailed, Naptr, Srv

PATIENCE_S = 3.0
"""Seconds for one question, over all name servers."""

ABSENT_S = 30.0
"""Seconds for which it holds that a name has nothing of a kind; and what stands in the hosts file."""

HOSTS = Path("/etc/hosts")


class Dns:
    """The system's name servers, or those given; and before them the hosts file, which has addresses only."""

    def __init__(self, servers: Sequence[str] = (), port: int = 53, hosts: Path = HOSTS) -> None:
        self._servers, self._port, self._hosts = servers, port, hosts
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def look_up(self, name: str, kind: Kind) -> Found:
        """What there is of that kind. Raises LookUpFailed."""
        listed = await asyncio.to_thread(_listed, self._hosts, name)
        if listed:
            wanted = tuple(address for address in listed if kind == ("AAAA" if ":" in address else "A"))
            return Found(wanted, ABSENT_S)
        try:
            answer = await self._open().resolve(name, kind, search=True, lifetime=PATIENCE_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Found((), ABSENT_S)
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise LookUpFailed(f"no {kind} of {name}: {_why(error)}") from None
        return Found(tuple(_record(data, kind) for data in answer), float(answer.rrset.ttl if answer.rrset else 0))

    def _open(self) -> dns.asyncresolver.Resolver:
        """The resolver; made when it is needed, since a machine without one can take calls all the same."""
        if self._resolver is None:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = list(self._servers)
                resolver.port = self._port
            self._resolver = resolver
        return self._resolver


def _record(data: Any, kind: Kind) -> Naptr | Srv | str:
    """A record of dnspython's as one of ours."""
    if kind == "NAPTR":
        flags, service = (text.decode("ascii", "replace") for text in (data.flags, data.service))
        return Naptr(data.order, data.preference, flags, service, data.replacement.to_text(omit_final_dot=True))
    if kind == "SRV":
        return Srv(data.priority, data.weight, data.port, data.target.to_text(omit_final_dot=True))
    return str(data.address)


def _why(error: Exception) -> str:
    """In few words: dnspython's tell every try."""
    if isinstance(error, dns.exception.Timeout):
        return f"no name server answered within {PATIENCE_S:g} s"
    if isinstance(error, dns.resolver.NoNameservers):
        return "no name server has a useful answer"
    return str(error) or type(error).__name__


def _listed(hosts: Path, name: str) -> list[str]:
    """The addresses of a name in a hosts file; none where there is no such file."""
    try:
        lines = hosts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.partition("#")[0].split() for line in lines]
    found = [line[0] for line in words if name.lower() in (word.lower() for word in line[1:])]
    return [address for address in found if _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False
