"""trunks.py: names are led to targets, ways are found and lost; the network is made up, and so is chance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from signaling.call import SignalingError
from signaling.sip import trunks as shell
from signaling.sip.keeper import Keeper
from signaling.sip.message import Request, respond
from signaling.sip.registration import BACK_OFF_S
from signaling.sip.resolve import Found, Kind, LookUpFailed, Resolver, Target
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Kept, Lines, Trunk
from signaling.sip.trunks import Trunks
from signaling.sip.wire import parse

HOUSE = Trunk("house", "pbx.example", user="1000", password="wonderland", register=True)
LOCAL = ("198.51.100.1", 5060)


class World:
    """A name service and a network. `names` may be changed at any time; so may `refused`, whom nobody can reach."""

    def __init__(self, *trunks: Trunk) -> None:
        self.names: dict[str, tuple[str, ...]] = {"pbx.example": ("192.0.2.1",)}
        self.refused: set[str] = set()
        self.missed: asyncio.Queue[str] = asyncio.Queue()
        self.connected: list[Flow] = []
        self.kept: dict[Flow, Callable[[str], None]] = {}
        self.sent: asyncio.Queue[tuple[Request, Flow]] = asyncio.Queue()
        self.events: asyncio.Queue[Kept] = asyncio.Queue()
        self.now = 1000.0
        self.ours = Trunks(trunks, Lines())
        self.resolver = Resolver(self, time=lambda: self.now, chance=lambda: 0.5)

    # --- names and ways ---

    async def look_up(self, name: str, kind: Kind) -> Found:
        self.now += 3600  # so that nothing is remembered
        if kind != "A":
            return Found((), 0)
        if not self.names.get(name):
            self.missed.put_nowait(name)
        if name not in self.names:
            raise LookUpFailed(f"no server knows {name}")
        return Found(self.names[name], 0)

    async def connect(self, target: Target) -> Flow:
        if target.host in self.refused:
            raise SignalingError(f"{target} cannot be reached: connection refused")
        flow = Flow(target.protocol, (target.host, target.port), LOCAL, len(self.connected) + 1)
        self.connected.append(flow)
        return flow

    def keep(self, flow: Flow, lost: Callable[[str], None]) -> bool:
        self.kept[flow] = lost
        return True

    def let_go(self, flow: Flow) -> None:
        del self.kept[flow]

    # --- what is driven ---

    def tell(self, do: Callable[[Keeper, float], None]) -> None:
        do(self.ours.keeper, self.now)
        for data, flow in self.ours.keeper.take_outgoing():
            request = parse(data)
            assert isinstance(request, Request)
            self.sent.put_nowait((request, flow))
        for event in self.ours.keeper.take_events():
            self.events.put_nowait(event)
            self.ours.told(event)

    def answer(self, request: Request, code: int) -> None:
        response = respond(request, code, to_tag="theirs", phrase="Fine")

        def hear(keeper: Keeper, now: float) -> None:
            assert keeper.receive(response, now)

        self.tell(hear)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tell(lambda keeper, now: keeper.fire(now))

    def lose(self, flow: Flow, why: str = "closed by the peer") -> None:
        """As a connection does that has ended."""
        self.kept.pop(flow)(why)


@contextlib.asynccontextmanager
async def world(*trunks: Trunk) -> AsyncIterator[World]:
    made = World(*trunks)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        yield made
        made.ours.stop()


async def test_a_name_is_led_to_a_way_and_registered_by_it() -> None:
    async with world(HOUSE) as there:
        request, flow = await there.sent.get()
        assert (request.method, flow.remote) == ("REGISTER", ("192.0.2.1", 5060))
        assert list(there.kept) == [flow]
        there.answer(request, 200)
        assert str((await there.events.get()).state) == "registered at pbx.example"
        assert there.ours.admission.knows("192.0.2.1")
        ((state, calls),) = there.ours.states
        assert (state.registered, calls) == (True, 0)


async def test_a_trunk_of_which_nothing_is_asked_is_only_known() -> None:
    plain = Trunk("plain", "pbx.example", proxy="edge.example:5070")
    made = World(plain)
    made.names["edge.example"] = ("192.0.2.2",)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        while not made.ours.admission.knows("192.0.2.1"):
            await asyncio.sleep(0)
        assert made.ours.admission.knows("192.0.2.2")
        assert (made.connected, made.events.qsize()) == ([], 0)
        made.ours.stop()


async def test_a_name_that_leads_nowhere_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shell, "BACK_OFF_S", 0.01)
    made = World(HOUSE)
    names, made.names = made.names, {}
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        event = await made.events.get()
        assert event.state.registered is False
        assert "pbx.example" in event.state.why and "no server knows" in event.state.why
        assert event.retry_s > 0
        assert "x trunk house not registered at pbx.example: " in caplog.text
        made.names = names
        request, _ = await made.sent.get()
        made.answer(request, 200)
        while (await made.events.get()).failed:
            pass
        made.ours.stop()


async def test_the_first_that_takes_us_is_taken() -> None:
    made = World(HOUSE)
    made.names["pbx.example"] = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    made.refused = {"192.0.2.1", "192.0.2.2"}
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        _, flow = await made.sent.get()
        assert flow.remote[0] == "192.0.2.3"
        made.ours.stop()


@pytest.mark.parametrize("silent", [True, False])
async def test_one_that_does_not_answer_or_says_503_is_left_for_another(silent: bool) -> None:
    made = World(HOUSE)
    made.names["pbx.example"] = ("192.0.2.1", "192.0.2.2")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        request, first = await made.sent.get()
        if silent:
            made.pass_time(33)
        else:
            made.answer(request, 503)
        request, second = await made.sent.get()
        while second == first:  # the repetitions of the first
            request, second = await made.sent.get()
        assert second.remote[0] != first.remote[0]
        assert list(made.kept) == [second]
        made.answer(request, 200)
        made.ours.stop()
    assert [way.tried for way in made.ours._ways.values()] == [set()], "once one works, all may be tried again"


async def test_where_all_have_failed_the_keepers_clock_decides() -> None:
    """No circle of two that both say no: each is asked once, and then it is waited."""
    made = World(HOUSE)
    made.names["pbx.example"] = ("192.0.2.1", "192.0.2.2")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        for _ in range(2):
            request, _ = await made.sent.get()
            made.answer(request, 503)
        for _ in range(100):
            await asyncio.sleep(0)
        assert made.sent.empty()
        made.pass_time(60)
        request, _ = await made.sent.get()
        made.answer(request, 200)
        made.ours.stop()


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_who_is_refused_is_not_refused_elsewhere_too(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password at each of a provider's machines would have us banned by all of them."""
    made = World(HOUSE)
    made.names["pbx.example"] = ("192.0.2.1", "192.0.2.2")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        request, _ = await made.sent.get()
        made.answer(request, code)
        assert (await made.events.get()).failed == code
        for _ in range(100):
            await asyncio.sleep(0)
        assert made.sent.empty()
        made.ours.stop()
    assert "x trunk house not registered at pbx.example: cannot register: " in caplog.text
    assert "; again in " in caplog.text and "wonderland" not in caplog.text


async def test_a_connection_that_is_lost_is_made_again_at_once() -> None:
    tcp = Trunk("house", "pbx.example", user="1000", password="x", register=True, transport="tcp")
    async with world(tcp) as there:
        request, first = await there.sent.get()
        there.answer(request, 200)
        there.lose(first)
        request, second = await there.sent.get()
        assert (second.protocol, second.serial) == ("TCP", 2)
        there.answer(request, 200)
        told = [await there.events.get() for _ in range(3)]
        assert [str(event.state) for event in told] == [
            "registered at pbx.example",
            "registered at pbx.example: closed by the peer",
            "registered at pbx.example",
        ]


async def test_a_connection_that_ends_after_us_is_missed_by_nobody() -> None:
    async with world(HOUSE) as there:
        request, flow = await there.sent.get()
        there.answer(request, 200)
        await there.events.get()
        there.ours.stop()
        there.lose(flow)
        assert there.events.empty()


async def test_one_that_is_lost_again_and_again_is_waited_for() -> None:
    tcp = Trunk("house", "pbx.example", user="1000", password="x", register=True, transport="tcp")
    async with world(tcp) as there:
        for _ in range(2):
            request, flow = await there.sent.get()
            there.answer(request, 200)
            there.lose(flow)
        while (event := await there.events.get()).retry_s == 0:
            pass
        assert event.retry_s >= BACK_OFF_S
        for _ in range(100):
            await asyncio.sleep(0)
        assert there.sent.empty()


async def test_two_trunks_share_a_connection() -> None:
    """Each is told when it is lost; and it is kept as long as one needs it."""
    second = Trunk("second", "pbx.example", user="2000", password="y", register=True)
    flow = Flow("TCP", ("192.0.2.1", 5060), LOCAL, 1)

    class Sharing(World):
        """As Connections gives one that is open."""

        async def connect(self, target: Target) -> Flow:
            return flow

    made = Sharing(HOUSE, second)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        for _ in range(2):
            request, _ = await made.sent.get()
            made.answer(request, 200)
        made.lose(flow)
        lost: set[str] = set()
        while len(lost) < 2:
            event = await made.events.get()
            lost |= {event.state.name} if event.failed else set()
        assert lost == {"house", "second"}
        made.ours.stop()


async def test_a_name_that_is_gone_changes_nothing_that_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shell, "RECHECK_S", 0.01)
    caplog.set_level("DEBUG", shell.logger.name)
    async with world(HOUSE) as there:
        request, flow = await there.sent.get()
        there.answer(request, 200)
        there.names["pbx.example"] = ()
        for _ in range(2):
            await there.missed.get()
        assert there.ours.states[0][0].registered and list(there.kept) == [flow] == there.connected
        assert "trunk house goes on as it is: pbx.example" in caplog.text


async def test_a_name_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "RECHECK_S", 0.01)
    async with world(HOUSE) as there:
        request, first = await there.sent.get()
        there.answer(request, 200)
        there.names["pbx.example"] = ("192.0.2.9",)
        request, second = await there.sent.get()
        assert second.remote[0] == "192.0.2.9"
        assert list(there.kept) == [second]
        assert there.ours.admission.knows("192.0.2.1") and there.ours.admission.knows("192.0.2.9")
        there.answer(request, 200)
        there.names = {}
        for _ in range(2):  # by the second, the first was dealt with
            await there.missed.get()
        assert there.ours.states[0][0].registered, "without a name server it is where it was"


async def test_one_that_is_down_is_looked_for_elsewhere() -> None:
    probed = Trunk("acme", "pbx.example", probe_s=30)
    made = World(probed)
    made.names["pbx.example"] = ("192.0.2.1", "192.0.2.2")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        made.ours.start(group, made.resolver, made, made.tell)
        request, first = await made.sent.get()
        assert request.method == "OPTIONS"
        made.answer(request, 200)
        while len(made.connected) < 2:
            made.pass_time(9)
            await asyncio.sleep(0)
        assert made.connected[1].remote != first.remote
        made.ours.stop()
