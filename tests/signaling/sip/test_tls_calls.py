"""Whole calls of ours over TLS: found by name, secured by name, and ended by another connection where one is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from signaling.call import CallEnded, Outcome, SignalingError
from signaling.sip.dialer import SipDialer
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.outbound import Limits, Outbound
from signaling.sip.resolve import Found, Kind, Srv, Target
from signaling.sip.tls import Tls
from tests.signaling.sip.answering import LOOPBACK, Desk, desk, leave
from tests.signaling.sip.certificates import Authority
from tests.signaling.sip.peer import OFFER


class Secure:
    """A name service by which pbx.test is reached over TLS alone, at one port of loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def look_up(self, name: str, kind: Kind) -> Found:
        if (name, kind) == ("_sips._tcp.pbx.test", "SRV"):
            return Found((Srv(1, 1, self._port, "host.test"),), 60)
        return Found(("127.0.0.1",) if (name, kind) == ("host.test", "A") else (), 60)


@contextlib.asynccontextmanager
async def secured(folder: Path, *names: str) -> AsyncIterator[tuple[Desk, SipDialer, SipEndpoint]]:
    """A desk with a certificate for these names, and who calls it and has none."""
    authority = Authority(folder)
    async with desk(leave, tls=Tls(authority.sign(*names), port=0)) as there:
        trust = Tls(authorities=authority.path)
        names_ = Secure(there.sip.flows.tls_port)
        async with SipEndpoint("127.0.0.1", 0, allow=LOOPBACK, tls=trust, names=names_) as here:
            yield there, SipDialer(here, Outbound((), Limits(direct=("*",)))), here


@pytest.mark.parametrize("they", [True, False])
async def test_a_call_by_a_sips_uri(they: bool, tmp_path: Path) -> None:
    async with asyncio.timeout(20), secured(tmp_path, "sip:pbx.test") as (there, dialer, here):
        call = await dialer.dial("sips:agent@pbx.test")
        await call.invite(OFFER)
        theirs = await there.next_call()
        await theirs.accept(OFFER)
        await call.wait_answered()
        (mine,), (other,) = here._calls, there.sip._calls
        assert mine.target == f"sips:127.0.0.1:{there.sip.flows.tls_port}"  # RFC 3261, section 12.1.1
        assert other.target.startswith("sips:127.0.0.1:")
        await (theirs if they else call).hang_up("goodbye")
        assert await call.wait_ended() == CallEnded("callee" if they else "agent", "goodbye")
        assert (await theirs.wait_ended()).by == ("agent" if they else "caller")
        assert len(list(there.sip.flows.connections)) == 1


async def test_a_lost_connection_is_made_anew_to_who_has_the_same_name(tmp_path: Path) -> None:
    async with asyncio.timeout(20), secured(tmp_path, "sip:pbx.test") as (there, dialer, here):
        call = await dialer.dial("sip:agent@pbx.test")
        await call.invite(OFFER)
        theirs = await there.next_call()
        await theirs.accept(OFFER)
        await call.wait_answered()
        for connection in list(here.flows.connections):
            connection.abort()
        while list(there.sip.flows.connections):
            await asyncio.sleep(0)
        await call.hang_up("goodbye")
        assert await theirs.wait_ended() == CallEnded("caller", "goodbye")


async def test_who_has_another_name_hears_nothing_of_the_call(tmp_path: Path) -> None:
    async with asyncio.timeout(20), secured(tmp_path, "sip:other.test", "host.test") as (there, dialer, here):
        call = await dialer.dial("sip:agent@pbx.test")
        await call.invite(OFFER)
        over = await call.wait_ended()
        assert over.outcome is Outcome.UNREACHABLE
        assert over.reason.endswith("cannot be reached: its certificate is for other.test, not for pbx.test")
        assert there.offered.empty()


@pytest.mark.parametrize("name", ["a..b", ".foo.test", "x" * 64])
async def test_a_name_that_is_none_is_nobody_to_talk_to(name: str, tmp_path: Path) -> None:
    """A certificate may have any in it, and we call its holder by that when a connection is lost."""
    async with asyncio.timeout(20), secured(tmp_path, "sip:pbx.test") as (there, _, here):
        with pytest.raises(SignalingError, match="is no name of a server"):
            await here.flows.connect(Target("TLS", "127.0.0.1", there.sip.flows.tls_port, name), 100)
