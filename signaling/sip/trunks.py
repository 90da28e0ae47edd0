"""The trunks at work: where each is found, by which way it is reached, and what becomes of that.

One task for each trunk leads its name to targets, connects to the first that takes us, and looks again now and then: a
name may move. What is asked there is the keeper's, whose failures come back here to find another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from signaling.call import SignalingError
from signaling.sip.admission import Admission
from signaling.sip.connections import Untrusted
from signaling.sip.counts import CERTIFICATE, kind_of
from signaling.sip.keeper import Keeper
from signaling.sip.registration import BACK_OFF_S, MAX_BACK_OFF_S
from signaling.sip.resolve import Resolver, Target
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Kept, Lines, Trunk, TrunkState

logger = logging.getLogger(__name__)

RECHECK_S = 60.0
"""Seconds after which a trunk's name is looked up again; DNS says by its TTL whether anybody is asked."""

OTHER_WAY = (408, 503)
"""Failures after which another of a trunk's targets may do better (RFC 3263, section 4.3)."""

Tell: TypeAlias = Callable[[Callable[[Keeper, float], None]], None]
"""Tells the keeper something, and sends what follows from it."""


class Ways(Protocol):
    """What connects us: `flows.Flows`."""

    async def connect(self, target: Target) -> Flow:
        """A way to that target. Raises SignalingError."""

    def keep(self, flow: Flow, lost: Callable[[str], None]) -> bool:
        """Keep it open until it is let go, and tell `lost` if it ends; False where it is gone already."""

    def let_go(self, flow: Flow) -> None:
        """Nobody keeps it any more."""


@dataclass(eq=False)
class _Way:
    """How one trunk is reached, while it is. `tried` are targets that failed since one worked last."""

    trunk: Trunk
    target: Target | None = None
    flow: Flow | None = None
    tried: set[Target] = field(default_factory=set)
    failures: int = 0
    untrusted: bool = False
    """Whether it could not be reached for its certificate."""
    stale: bool = False
    """Whether it is told a wrong address of ours by that flow."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_asked(self) -> bool:
        """Whether we have anything to ask of it; else we only want to know its calls by their address."""
        return self.trunk.register or self.trunk.probe_s > 0


class Trunks:
    """All of them. `lines` count their calls together with those that we make."""

    def __init__(self, trunks: Iterable[Trunk], lines: Lines) -> None:
        self._ways = {trunk.name: _Way(trunk) for trunk in trunks}
        trunks = [way.trunk for way in self._ways.values()]
        self.keeper = Keeper(trunks)
        self.admission = Admission(trunks, lines)
        self._lines = lines
        self._tasks: list[asyncio.Task[None]] = []
        self.failures: Counter[tuple[str, str]] = Counter()
        """What came to nothing, by trunk and kind of failure."""
        self.refusals: Counter[tuple[str, int]] = Counter()
        """Calls that a trunk was not allowed to make, by trunk and response code."""

    @property
    def states(self) -> tuple[tuple[TrunkState, int], ...]:
        """How each fares, and how many calls it has."""
        return tuple((state, self._lines[state.name]) for state in self.keeper.states)

    def named(self, name: str) -> Trunk | None:
        """The trunk of that name."""
        way = self._ways.get(name)
        return way.trunk if way else None

    def start(self, group: asyncio.TaskGroup, resolver: Resolver, flows: Ways, tell: Tell) -> None:
        """Find and keep them all, in tasks of `group`, until `stop`."""
        self._resolver, self._flows, self._tell = resolver, flows, tell
        self._tasks = [group.create_task(self._keep(way), name=f"trunk {name}") for name, way in self._ways.items()]

    def stop(self) -> None:
        """Look for no more ways; those that there are stay for what is still to be said, and are missed by nobody."""
        for task in self._tasks:
            task.cancel()
        for way in self._ways.values():
            way.flow = way.target = None

    def told(self, event: Kept) -> None:
        """A trunk's state changed, or a request to it came to nothing."""
        state, way = event.state, self._ways[event.state.name]
        if event.failed:
            self.failures[state.name, CERTIFICATE if way.untrusted else kind_of(event.failed)] += 1
            again = f"; again in {event.retry_s:.0f} s" if event.retry_s else ""
            logger.warning("x trunk %s %s%s", state.name, state, again)
        else:
            logger.log(logging.WARNING if state.up is False else logging.INFO, "- trunk %s %s", state.name, state)
        if way.target is None:
            return
        if event.failed in OTHER_WAY or state.up is False:
            self._resolver.failed(way.target)
            way.tried.add(way.target)
            way.news.set()
        elif not event.failed:
            self._resolver.worked(way.target)
            way.tried.clear()

    def moved(self, host: str) -> None:
        """Who is reached there by datagrams is to be told another address of ours."""
        for way in self._ways.values():
            if way.flow is not None and not way.flow.reliable and way.flow.remote[0] == host:
                way.stale = True
                way.news.set()

    # --- the task of one ---

    async def _keep(self, way: _Way) -> None:
        while True:
            way.news.clear()
            wait_s = await self._find(way)
            try:
                async with asyncio.timeout(wait_s):
                    await way.news.wait()
            except TimeoutError:
                way.failures = 0 if way.flow is not None else way.failures

    async def _find(self, way: _Way) -> float:
        """Find it, and a way to it where we need one; gives the seconds after which to look again."""
        try:
            targets = await self._look_up(way)
            found = way.flow is not None and way.target in targets and way.target not in way.tried
            if way.is_asked and (way.stale or not found):
                await self._reach(way, targets)
        except SignalingError as error:
            if way.flow is None:
                wait_s = self._back_off(way)
                way.untrusted = isinstance(error, Untrusted)
                self._unreachable(way, str(error), wait_s)
                return wait_s
            logger.debug("- trunk %s goes on as it is: %s", way.trunk.name, error)
        return RECHECK_S

    async def _look_up(self, way: _Way) -> tuple[Target, ...]:
        """Where requests go; calls may come from there, and from where the name itself leads. Raises SignalingError."""
        targets = await self._resolver.resolve(way.trunk.next_hop)
        hosts = [target.host for target in targets]
        if way.trunk.proxy:
            with contextlib.suppress(SignalingError):  # a domain needs no address where a proxy was named
                hosts += [target.host for target in await self._resolver.resolve(f"sip:{way.trunk.domain}")]
        self.admission.learn(way.trunk.name, hosts)
        return targets

    async def _reach(self, way: _Way, targets: tuple[Target, ...]) -> None:
        """Connect to the first that takes us, of those that have not failed. Raises the last one's error.

        When all have failed the way stays as it is: what is asked by it is tried again later, by the keeper's clock.
        """
        error: SignalingError | None = None
        for target in (target for target in targets if target not in way.tried):
            try:
                flow = await self._flows.connect(target)
            except SignalingError as refused:
                self._resolver.failed(target)
                error = refused
                continue
            self._take(way, target, flow)
            return
        way.tried.clear()
        if error is not None:
            raise error

    def _take(self, way: _Way, target: Target, flow: Flow) -> None:
        """From now on it is reached by that flow, which others may share."""
        left, way.target, way.flow, way.untrusted = way.flow, target, flow, False
        way.stale = False
        if left is not None and not self._by(left):
            self._flows.let_go(left)
        kept = self._flows.keep(flow, lambda why: self._lost(flow, why))
        self._tell(lambda keeper, now: keeper.reach(way.trunk.name, flow, now))
        if not kept:
            self._lost(flow, "the connection is gone already")

    def _by(self, flow: Flow) -> list[_Way]:
        """Those that are reached by it."""
        return [way for way in self._ways.values() if way.flow == flow]

    def _lost(self, flow: Flow, why: str) -> None:
        """A connection is gone. The first time another one is made at once, then after longer and longer waits."""
        for way in self._by(flow):
            way.flow = way.target = None
            wait_s = self._back_off(way) if way.failures else 0.0
            way.failures = max(way.failures, 1)
            self._unreachable(way, why, wait_s)
            asyncio.get_running_loop().call_later(wait_s, way.news.set)

    def _unreachable(self, way: _Way, why: str, retry_s: float) -> None:
        self._tell(lambda keeper, now: keeper.unreachable(way.trunk.name, why, now, retry_s))

    def _back_off(self, way: _Way) -> float:
        """Longer each time; by chance too, or all who lost the same peer would come back at once."""
        wait_s = min(BACK_OFF_S * 2.0**way.failures, MAX_BACK_OFF_S)
        way.failures = min(way.failures + 1, 10)
        return wait_s * random.uniform(1.0, 2.0)
