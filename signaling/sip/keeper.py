"""Keeps trunks: our places at their registrars, and whether they live. Pure.

For each trunk a `Registration`, a `Probe`, both or neither. Whoever drives it says by which flow a trunk is reached
(`reach`), or why it is not (`unreachable`), hands it responses, calls `fire` when `next_at` has come, and after each
call sends `take_outgoing` and deals with `take_events`: one for each change of a trunk's state, none for a refresh.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from signaling.sip import registration
from signaling.sip.grammar import clean
from signaling.sip.message import Response
from signaling.sip.probe import Probe
from signaling.sip.registration import Account, Failed, Registered, Registration
from signaling.sip.transaction import Flow
from signaling.sip.trunk import Kept, Trunk, TrunkState


@dataclass(eq=False)
class _Line:
    """What is known of one trunk."""

    trunk: Trunk
    state: TrunkState
    flow: Flow | None = None
    registration: Registration | None = None
    probe: Probe | None = None
    routes: tuple[str, ...] = ()
    refused: str = ""
    """Why we are not registered, where we ought to be."""
    outgoing: list[tuple[bytes, Flow]] = field(default_factory=list)

    @property
    def parts(self) -> list[Registration | Probe]:
        return [part for part in (self.registration, self.probe) if part is not None]


class Keeper:
    """All trunks. Random text and chance are passed in."""

    def __init__(
        self,
        trunks: Iterable[Trunk] = (),
        *,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._token, self._chance = token, chance
        self._lines = {trunk.name: _Line(trunk, TrunkState(trunk.name, trunk.host)) for trunk in trunks}
        self._events: list[Kept] = []
        self._stopping = False

    # --- what is known ---

    @property
    def states(self) -> tuple[TrunkState, ...]:
        """Of all trunks, in the order of the settings."""
        return tuple(line.state for line in self._lines.values())

    def routes(self, name: str) -> tuple[str, ...]:
        """The proxies that the trunk's registrar wants our requests to take (Service-Route, RFC 3608)."""
        return self._lines[name].routes

    def uses(self, flow: Flow) -> bool:
        """Whether a trunk is reached by that connection."""
        return any(line.flow == flow for line in self._lines.values())

    @property
    def idle(self) -> bool:
        """Whether no registrar has yet to be told that we leave."""
        places = [line.registration for line in self._lines.values() if line.registration is not None]
        waits = (registration.State.STOPPING, registration.State.LEAVING)
        return not any(place.state in waits for place in places)

    # --- for whoever drives it ---

    def reach(self, name: str, flow: Flow, now: float) -> None:
        """The trunk is reached by that flow: begin, or go on there."""
        line = self._lines[name]
        if self._stopping or line.flow == flow:
            return
        begun, line.flow, line.refused = line.flow is not None, flow, ""
        if not begun:
            self._begin(line, flow, now)
        else:
            if line.registration is not None:
                line.registration.moved(flow, now)
            if line.probe is not None:
                line.probe.moved(flow)
        self._collect(line)

    def unreachable(self, name: str, why: str, now: float, retry_s: float = 0.0) -> None:
        """No way leads to the trunk, or no longer, and what was sent last cannot have arrived."""
        line = self._lines[name]
        if line.registration is not None:
            line.registration.lost(why, now)
        if line.probe is not None:
            line.probe.lost(why)
        told = len(self._events)
        self._collect(line)
        if len(self._events) == told:
            line.refused = clean(why)
            registered = False if line.trunk.register and line.flow is None else None
            self._tell(line, registered=registered, failed=503, retry_s=retry_s)

    def stop(self, now: float) -> None:
        """Take us off everywhere."""
        self._stopping = True
        for line in self._lines.values():
            if line.registration is not None:
                line.registration.stop(now)
            if line.probe is not None:
                line.probe.stop()
            self._collect(line)

    def receive(self, response: Response, now: float) -> bool:
        """A response came in; False where it is for none of ours."""
        for line in self._lines.values():
            if any(part.receive(response, now) for part in line.parts):
                self._collect(line)
                return True
        return False

    def fire(self, now: float) -> None:
        """Let everything happen that is due."""
        for line in self._lines.values():
            for part in line.parts:
                part.fire(now)
            self._collect(line)

    @property
    def next_at(self) -> float | None:
        """When `fire` wants to be called; None while nothing is due ever."""
        due = (part.next_at for line in self._lines.values() for part in line.parts)
        return min((at for at in due if at is not None), default=None)

    def take_outgoing(self) -> list[tuple[bytes, Flow]]:
        """What is to be sent, in order; each is given once."""
        outgoing: list[tuple[bytes, Flow]] = []
        for line in self._lines.values():
            outgoing += line.outgoing
            line.outgoing = []
        return outgoing

    def take_events(self) -> list[Kept]:
        """What changed, in order; each is given once."""
        events, self._events = self._events, []
        return events

    # --- what happens to one ---

    def _begin(self, line: _Line, flow: Flow, now: float) -> None:
        trunk = line.trunk
        if trunk.register and trunk.login is not None:
            account = Account(f"sip:{trunk.domain}", f"sip:{trunk.user}@{trunk.host}", trunk.login, trunk.expires)
            account = replace(account, routes=trunk.routes)
            line.registration = Registration(account, flow, token=self._token, chance=self._chance)
            line.registration.start(now)
        if trunk.probe_s:
            line.probe = Probe(trunk, flow, token=self._token, chance=self._chance)
            line.probe.start(now)
        if not line.parts:
            self._tell(line)

    def _collect(self, line: _Line) -> None:
        """After something happened: what is to be sent, and what it means."""
        for part in line.parts:
            line.outgoing += part.take_outgoing()
        for event in line.registration.take_events() if line.registration is not None else ():
            self._learn(line, event)
        if line.probe is not None and line.probe.up is not line.state.up:
            self._tell(line)

    def _learn(self, line: _Line, event: registration.Event) -> None:
        if isinstance(event, Registered):
            line.routes, line.refused = event.routes, ""
            self._tell(line, registered=True)
        elif isinstance(event, Failed):
            line.refused = f"cannot register: {clean(event.why)}"
            self._tell(line, registered=False, failed=event.code, retry_s=event.retry_s)
        else:
            line.refused = "we have left"
            self._tell(line, registered=False)

    def _tell(self, line: _Line, *, registered: bool | None = None, failed: int = 0, retry_s: float = 0.0) -> None:
        """A failure is told each time, so that another way may be tried; all else where it is news."""
        was, probe = line.state, line.probe
        registered = was.registered if registered is None else registered
        missed = probe.why if probe is not None and probe.up is False else ""
        up = None if probe is None else probe.up
        line.state = replace(was, registered=registered, up=up, why=line.refused or missed)
        if failed or line.state != was:
            self._events.append(Kept(line.state, failed, retry_s))
