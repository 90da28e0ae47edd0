"""The session manager: admits calls, runs a session for each, and ends them all when it is told to."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TypeVar

from engine.slot import Engine, EngineError, EngineFull, EngineState, Slot
from media.leg import Leg
from signaling.call import Call, CallOffer, CallSource, Dialer, OutgoingCall, Rejection, SignalingError
from voipagent.calls import CallsSettings
from voipagent.consent import Announcement
from voipagent.events import Observer, Refused, Telling
from voipagent.index import CallIndex
from voipagent.longest import Longest
from voipagent.outbound import OutgoingSession, UnknownPersona, Wanted
from voipagent.persona import Persona, Personas
from voipagent.record import CallFolder, CallRecord, utc_now
from voipagent.recording import Recorder
from voipagent.roomcall import RoomCall
from voipagent.rooms import Rooms
from voipagent.session import Session
from voipagent.transfer import answered
from voipagent.trim import Memory
from voipagent.watchdog import WatchdogSettings

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Session)


class Agent:
    """Runs sessions until its task is cancelled; then every call is hung up and every record closed."""

    def __init__(
        self,
        engine: Engine,
        open_leg: Callable[[CallOffer], Leg],
        personas: Personas,
        recorder: Recorder,
        calls: CallsSettings,
        seed: int | None = None,
        memory: Memory | None = None,
        watchdog: WatchdogSettings | None = None,
    ) -> None:
        self._engine, self._open_leg = engine, open_leg
        self.personas = personas
        """Who answers new calls; those that run keep theirs."""
        self._recorder, self._calls, self._seed = recorder, calls, seed
        self._memory, self._watchdog = memory, watchdog
        self.draining = False
        self.dialer: Dialer | None = None
        """How a call is made that a far end wants of us; without one, or the right to it, it is refused."""
        self.announcement: Announcement | None = None
        """What callers hear before the model does."""
        self.index: CallIndex | None = None
        """Where calls are entered once they are over."""
        self.rooms: Rooms | None = None
        """Where calls go that are for a room of several people; it is one of the sources, too."""
        self.observers: list[Observer] = []
        """Told what becomes of each call that begins from now on."""
        self.sessions: dict[str, Session] = {}
        """Those that run, by the id of their call."""
        self._group: asyncio.TaskGroup | None = None  # while running
        self._placed: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether a new call would be taken, if there is room."""
        return not self.draining and self._engine.state is EngineState.READY

    async def run(self, *sources: CallSource) -> None:
        """Take calls from `sources`, for ever; told to stop, it takes no more while sessions and records are closed."""
        for source in sources:
            source.available = lambda: self.ready
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                async with asyncio.TaskGroup() as takers:
                    for source in sources:
                        takers.create_task(self._take(source, group), name="calls")
            finally:
                self.draining = True
                self._group = None

    async def _take(self, source: CallSource, group: asyncio.TaskGroup) -> None:
        async for call in source.calls():
            group.create_task(self._serve(call), name=f"call {call.offer.id}")

    async def place(self, dialer: Dialer, wanted: Wanted, persona: Persona | None = None) -> OutgoingCall:
        """Begin a call of ours; what becomes of it is the call's to tell, and its record's. `persona`: who is to speak,
        whatever is named.

        Raises UnknownPersona, EngineError where no row is free or we take no calls, SignalingError where it may not be
        made or no way leads there.
        """
        if not self.ready or self._group is None:
            raise EngineError(f"no calls are made now: the engine is {self._engine.state.value}")
        begun: asyncio.Future[OutgoingCall] = asyncio.get_running_loop().create_future()
        speaker = persona or self._personas_by_name(wanted.persona)
        task = self._group.create_task(self._place(dialer, wanted, speaker, begun), name="call of ours")
        self._placed.add(task)
        task.add_done_callback(self._placed.discard)
        task.add_done_callback(lambda _: begun.cancel())  # without effect once it is done; the task may never begin
        return await begun

    async def settled(self) -> None:
        """Wait until all calls that we made are over, with what is written of them then."""
        if self._placed:
            await asyncio.wait(self._placed)

    async def _place(
        self, dialer: Dialer, wanted: Wanted, persona: Persona, begun: asyncio.Future[OutgoingCall]
    ) -> None:
        """One call of ours: a row first, then the way there; whoever wanted it may have gone meanwhile."""
        try:
            seed = secrets.randbelow(2**31) if self._seed is None else self._seed
            sampling = persona.draw(self._engine.sampling, seed)
            async with AsyncExitStack() as row:
                slot = await row.enter_async_context(self._engine.open(sampling))
                call = await dialer.dial(wanted.target, wanted.trunk)
                try:
                    session = self._outgoing(call, persona, slot, seed, wanted.digits)
                    session.give_back = row.aclose
                    if not begun.done():
                        begun.set_result(call)
                    await self._run(session)
                finally:
                    await call.hang_up("the session failed")  # without effect once it is over
            await session.sum_up()
        except (EngineError, SignalingError) as error:
            if begun.done():
                logger.error("x a call of ours failed: %s", error)
            else:
                begun.set_exception(error)
        except Exception:
            logger.exception("x a call of ours failed")
            if not begun.done():
                begun.set_exception(EngineError("the call could not be begun; the log says why"))

    async def _referred(self, offer: CallOffer, persona: Persona, target: str) -> None:
        """Call `target` because the far end of a call wants it, by the trunk and with the persona of that call.

        Returns once they have answered. Raises SignalingError.
        """
        assert self.dialer is not None
        try:
            call = await self.place(self.dialer, Wanted(target, offer.trunk), persona)
        except EngineError as error:
            raise SignalingError(f"no call to {target}: {error}") from error
        await answered(call, target)

    def _outgoing(self, call: OutgoingCall, persona: Persona, slot: Slot, seed: int, digits: str) -> OutgoingSession:
        offer = call.offer
        persona = persona.filled(offer.caller, offer.callee, datetime.now().astimezone())
        session = self._session(call, persona, slot, seed, OutgoingSession)
        early = session.recording.path.with_stem("early")
        session.begin(call, digits, self._recorder.record(early, self._engine.sample_rate, self._calls.record))
        by = f" by trunk {offer.trunk}" if offer.trunk else ""
        logger.info("> %s call by %s:%d%s", offer.id, *offer.source, by)
        return session

    def _personas_by_name(self, name: str) -> Persona:
        """The persona of that section or name, the default one for "". Raises UnknownPersona."""
        found = self.personas.find(name)
        if found is None:
            known = ", ".join([self.personas.default.name, *self.personas.named])
            raise UnknownPersona(f"there is no persona {name!r}; known: {known}")
        return found

    async def _serve(self, call: Call) -> None:
        """One call, whatever becomes of it: a failed one never takes the others down."""
        try:
            if self.rooms is not None and self.ready and self.rooms.wants(call.offer):
                await self.rooms.join(call)
            else:
                await self._admit(call)
        except Exception:
            logger.exception("x %s session failed", call.offer.id)

    async def _admit(self, call: Call) -> None:
        """Reserve a row before anything rings or opens a port, or say why not."""
        offer = call.offer
        if not self.ready:
            await self._refuse(call, Rejection.OVERLOADED, f"the engine is {self._engine.state.value}")
            return
        seed = secrets.randbelow(2**31) if self._seed is None else self._seed
        chosen = self.personas.of(offer)
        persona = chosen.filled(offer.caller, offer.callee, datetime.now().astimezone())
        sampling = persona.draw(self._engine.sampling, seed)
        if self.dialer is not None:
            call.referred = lambda target: self._referred(offer, chosen, target)
        try:
            async with AsyncExitStack() as row:
                slot = await row.enter_async_context(self._engine.open(sampling))
                by = f" by trunk {offer.trunk}" if offer.trunk else ""
                logger.info("< %s call to %s from %s:%d%s", offer.id, offer.callee, *offer.source, by)
                session = self._session(call, persona, slot, sampling.seed, Session)
                session.give_back = row.aclose
                await self._run(session)
            await session.sum_up()
        except EngineFull as error:
            await self._refuse(call, Rejection.BUSY, str(error))
        except EngineError as error:
            await self._refuse(call, Rejection.OVERLOADED, str(error))

    async def _run(self, session: Session) -> None:
        """To its end; meanwhile it can be found."""
        self.sessions[session.record.id] = session
        try:
            await session.run()
        finally:
            del self.sessions[session.record.id]

    async def _refuse(self, call: Call, rejection: Rejection, why: str) -> None:
        offer = call.offer
        logger.warning("x %s refused, %s: %s", offer.id, rejection.value, why)
        Telling(offer.id, self.observers)(Refused(offer.kind, offer.trunk, rejection.value))
        await call.reject(rejection)

    def _session(self, call: Call, persona: Persona, slot: Slot, seed: int, kind: type[S]) -> S:
        started, offer = utc_now(), call.offer
        record = CallRecord(
            id=offer.id,
            kind=offer.kind,
            caller=offer.caller,
            callee=offer.callee,
            source=f"{offer.source[0]}:{offer.source[1]}",
            started=started.isoformat(),
            headers=dict(offer.headers),
            trunk=offer.trunk,
            persona=persona.name,
            language=persona.language,
            model=self._engine.revision,
            seed=seed,
            participants=call.roll if isinstance(call, RoomCall) else [],
        )
        enter = self.index.enter if self.index is not None else None
        folder = CallFolder(self._recorder, self._calls.dir, started, offer.id, enter)
        path = folder.path / f"recording.{self._calls.format}"
        recording = self._recorder.record(path, self._engine.sample_rate, self._calls.record)
        return kind(
            call,
            call.open_leg if isinstance(call, RoomCall) else self._open_leg,
            slot,
            persona,
            record,
            folder,
            recording,
            max_hold_s=self._calls.max_hold,
            memory=self._memory,
            watchdog=self._watchdog,
            announcement=None if isinstance(call, RoomCall) else self.announcement,  # each of a room hears its own
            longest=Longest(self._calls.max_length, self._calls.goodbye),
            observers=tuple(self.observers),
        )
