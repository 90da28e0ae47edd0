"""Builds the concrete parts from the settings and runs them: the only file that names them all, but for the engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path

from engine.slot import Engine
from media.answer import Legs
from media.leg import AudioFormat, Leg
from signaling.call import CallEnded, CallOffer, OutgoingCall, SignalingError
from signaling.front import Front
from signaling.meetings.dialer import MeetingDialer
from signaling.meetings.meeting import KIND as MEETING
from signaling.sip.dialer import SipDialer
from signaling.sip.endpoint import SipEndpoint
from signaling.sip.grammar import host_port
from signaling.sip.outbound import Outbound
from signaling.sip.tls import Tls
from signaling.sip.transport import bind
from signaling.sip.trunk import Lines, Trunk
from signaling.whip import WhipEndpoint
from voipagent.advice import advice
from voipagent.agent import Agent
from voipagent.consent import load_announcement
from voipagent.context import Line
from voipagent.engines import open_engine
from voipagent.index import CallIndex
from voipagent.meetings import Meetings
from voipagent.memory import open_memory
from voipagent.outbound import Wanted
from voipagent.participant import leg_format
from voipagent.prompts import as_told, check_persona, has_files, read_anew
from voipagent.record import check_folder
from voipagent.recording import Recorder, open_private
from voipagent.retention import kept
from voipagent.rooms import Rooms
from voipagent.settings import EngineSettings, Settings, SipSettings
from voipagent.story import Telling, tell_all, tell_facts
from voipagent.talk import check_distinct, writing
from voipagent.talk import talk as talk_through
from voipagent.telemetry import Telemetry
from voipagent.transfer import Switchboard
from voipagent.trim import Memory
from voipagent.web.api import HttpError, create_api, serve_http
from voipagent.web.calls import serve_calls
from voipagent.web.certificate import Https, open_https
from voipagent.web.control import serve_control
from voipagent.web.front import address, serve_front
from voipagent.web.meetings import serve_meetings
from voipagent.web.metrics import serve_metrics
from voipagent.web.records import serve_records
from voipagent.web.rooms import serve_rooms
from voipagent.webrtc import WebLegs, unreadable

logger = logging.getLogger(__name__)

LARGE = "VOIPAGENT_ENGINE__MODEL=kyutai/moshiko-pytorch-bf16"


async def serve(settings: Settings, environ: Mapping[str, str] | None = None) -> None:
    """Answer calls until SIGINT or SIGTERM; then hang up, close the records and return. A second signal kills.

    `environ` is what the settings were read from, where their files are to be read again on SIGHUP.
    """
    environ = environ or {}
    reads = has_files(environ) or settings.http.is_https or settings.sip.tls_cert is not None
    with _stopped_by_signals(hangup=not reads), contextlib.suppress(asyncio.CancelledError):
        await _serve(settings, environ)


async def dial(settings: Settings, wanted: Wanted, *, meeting: bool = False) -> CallEnded:
    """Make one call, or join one meeting, and talk until it is over. A signal hangs up; a second one kills.

    Nobody can call meanwhile, and no trunk is registered with: there may be an agent that serves beside us. Raises
    SignalingError where a signal came before there was a call.
    """
    with _stopped_by_signals():
        call: list[OutgoingCall] = []
        try:
            await _dial(settings, wanted, meeting, call)
        except asyncio.CancelledError:
            if not call:
                raise SignalingError("stopped before there was a call") from None
        return await call[0].wait_ended()


async def _dial(settings: Settings, wanted: Wanted, meeting: bool, begun: list[OutgoingCall]) -> None:
    """Fills `begun` with the call, once there is one."""
    async with _house(_to_dial(settings)) as house:
        running = asyncio.create_task(house.agent.run(house.sip), name="agent")
        await asyncio.sleep(0)  # in which it begins
        house.sip.available = lambda: False
        try:
            if meeting:
                begun.append(await house.meetings.join(wanted.target, wanted.persona))
            else:
                begun.append(await house.agent.place(house.dialer, wanted))
            await begun[0].wait_ended()
            await house.agent.settled()
        except asyncio.CancelledError:
            if not begun:
                raise
        finally:
            running.cancel()
            await asyncio.wait([running])


def _to_dial(settings: Settings) -> Settings:
    """Settings for one call: a row, and a port that may be any, if the one for calls that come in is taken."""
    sip, trunks = settings.sip, settings.trunks
    quiet = {name: trunk.model_copy(update={"registers": False, "probe": 0.0}) for name, trunk in trunks.items()}
    try:
        for sock in bind(sip.host, sip.port, sip.v6_only):
            sock.close()
        port = sip.port
    except SignalingError:
        port = 0
    alone = {"port": port, "allow": (), "challenge": (), "users": {}, "tls_cert": None, "tls_key": None}
    engine = settings.engine.model_copy(update={"rows": 1})
    return settings.model_copy(update={"sip": sip.model_copy(update=alone), "trunks": quiet, "engine": engine})


@contextlib.contextmanager
def _stopped_by_signals(hangup: bool = True) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP cancel the task that we are in, once. Without `hangup`, SIGHUP is for something else,
    and changes nothing while that is not there; nor is it ours where we were begun to outlive a terminal (nohup).
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        if hangup:
            numbers.append(signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, _not_now)

    def stop(number: signal.Signals) -> None:
        logger.info("- %s: hanging up", number.name)
        for each in numbers:
            loop.remove_signal_handler(each)
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in (*numbers, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _not_now() -> None:
    logger.info("- SIGHUP: nothing is read again while we begin or end")


async def _serve(settings: Settings, environ: Mapping[str, str]) -> None:
    async with _house(settings) as house:
        agent, dialer, sip = house.agent, house.dialer, house.sip
        token = settings.http.token.get_secret_value()
        api = create_api(
            lambda: agent.ready, lambda: [asdict(state) | {"calls": calls} for state, calls in sip.trunks.states], token
        )
        serve_calls(api, lambda wanted: agent.place(dialer, wanted), token)
        serve_control(api, agent.sessions, house.board, token)
        serve_rooms(api, house.rooms, token)
        serve_meetings(api, house.meetings, token)
        serve_records(api, CallIndex(settings.calls.dir), agent.sessions, token)
        house.whip.serve(api)
        serve_front(api, settings, agent.observers, house.whip.call_of)
        serve_metrics(api, _watched(house).exposition, settings.metrics.token.get_secret_value())
        https = open_https(settings.http, settings.sip.advertised)
        tls = https.context if https else None
        async with serve_http(api, settings.http.host, settings.http.port, tls) as http_port:
            logger.info("- model %s, %d rows", house.engine.revision, house.engine.free)
            if settings.engine.model == "pocket":
                _tell_of_cards()
            _tell_of_personas(settings, house.engine)
            if sip.flows.tls_port:
                logger.info("- TLS on port %d", sip.flows.tls_port)
            logger.info("- talk to it at %s", address(settings.http, http_port))
            place = host_port(settings.sip.host, sip.port)
            logger.info("- answering at sip:%s, HTTP on port %d", place, http_port)
            with _reading_anew(sip, https, _prompts(house, environ)):
                await house.meetings.beside(agent.run(sip, house.whip, house.rooms))


def _watched(house: House) -> Telemetry:
    """What there is to tell of all parts."""
    agent, engine, sip, telemetry = house.agent, house.engine, house.sip, Telemetry()
    agent.observers.append(telemetry)
    telemetry.watch(lambda: (engine.free, agent.ready), lambda: sip.trunks.states, lambda: sip.counts)
    return telemetry


@dataclass(frozen=True)
class House:
    """The concrete parts, entered."""

    engine: Engine
    sip: SipEndpoint
    whip: WhipEndpoint
    agent: Agent
    memory: Memory | None
    dialer: SipDialer
    board: Switchboard
    rooms: Rooms
    meetings: Meetings


@contextlib.asynccontextmanager
async def _house(settings: Settings) -> AsyncIterator[House]:
    """From the ground up: what must be there first is entered first, and left last."""
    check_folder(settings.calls.dir)
    trunks, lines, pins = settings.signaling_trunks, Lines(), settings.context.policy == "pin"
    with Recorder() as recorder:
        async with (
            kept(settings.calls) as index,
            open_engine(settings.engine, [each.voice for each in settings.who_answers], pins) as engine,
            open_memory(settings.context, settings.summary, _telling(settings.engine)) as memory,
            Legs(
                audio_format := AudioFormat(engine.sample_rate, engine.frame_samples),
                ports=(settings.rtp.ports.first, settings.rtp.ports.last),
                advertised=settings.sip.advertised,
                srtp=settings.sip.srtp,
                codecs=settings.sip.codecs,
                ice_servers=settings.webrtc.servers,
            ) as legs,
            SipEndpoint(
                settings.sip.host,
                settings.sip.port,
                allow=settings.sip.allow,
                challenge=settings.sip.challenge,
                users={name: user.password.get_secret_value() for name, user in settings.sip.users.items()},
                digests=tuple(name.upper() for name in settings.sip.digests),
                advertised=settings.sip.advertised,
                tls=_tls(settings.sip),
                v6_only=settings.sip.v6_only,
                trunks=trunks,
                lines=lines,
            ) as sip,
        ):
            announcement = load_announcement(settings.calls.consent, engine.sample_rate, engine.frame_samples)
            for persona in settings.who_answers:
                await check_persona(engine, persona, memory)
            whip = WhipEndpoint(Front(settings.webrtc.access(settings.http), unreadable, settings.webrtc.links))
            web = WebLegs(legs.open_web_leg, whip.take_candidates, whip.whep.publish)
            open_leg = _leg_opener(legs, trunks, web)
            agent = Agent(
                engine,
                open_leg,
                settings.who_answers,
                recorder,
                settings.calls.as_said_by(settings.engine.model),
                settings.engine.seed,
                memory,
                settings.watchdog,
            )
            agent.index, agent.announcement = index, announcement
            room_legs = legs.framed(leg_format(audio_format))
            room_web = WebLegs(room_legs.open_web_leg, whip.take_candidates, whip.whep.publish)
            open_seat = _leg_opener(room_legs, trunks, room_web)
            agent.rooms = rooms = Rooms(settings.rooms, settings.personas, audio_format, open_seat, agent.observers)
            rooms.announcement = announcement
            policy = Outbound(trunks, settings.outbound.limits, lines, phones=settings.sip.users)
            agent.dialer = dialer = SipDialer(
                sip, policy, routes=sip.trunks.keeper.routes, ring_s=settings.outbound.ring
            )
            board = Switchboard(dialer, open_leg, audio_format, dialer.why_not_refer, announcement)
            meetings = Meetings(settings.meetings, lambda wanted: agent.place(MeetingDialer(meetings.find), wanted))
            yield House(engine, sip, whip, agent, memory, dialer, board, rooms, meetings)


def _prompts(house: House, environ: Mapping[str, str]) -> Callable[[], None] | None:
    """Gives new calls the prompts that lie in the files now; None where no prompt comes from one."""

    def read() -> None:
        agent = house.agent
        agent.personas = read_anew(environ, house.engine, house.memory, agent.personas)

    return read if has_files(environ) else None


@contextlib.contextmanager
def _reading_anew(sip: SipEndpoint, https: Https | None, prompts: Callable[[], None] | None = None) -> Iterator[None]:
    """Read certificates and prompts again on SIGHUP; where we have neither, it hangs up (`_stopped_by_signals`)."""
    loop, tls = asyncio.get_running_loop(), sip.flows.tls_port or https is not None

    def read() -> None:
        if tls:
            _read_certificates(sip, https)
        if prompts is not None:
            prompts()

    if not (tls or prompts):
        yield
        return
    loop.add_signal_handler(signal.SIGHUP, read)
    try:
        yield
    finally:
        loop.add_signal_handler(signal.SIGHUP, _not_now)


def _read_certificates(sip: SipEndpoint, https: Https | None) -> None:
    try:
        sip.flows.reload()
        if https is not None:
            https.reload()
    except (SignalingError, HttpError) as error:
        logger.error("x SIGHUP: %s; the certificates of before stay", error)
    else:
        logger.info("- SIGHUP: certificates were read again")


def _leg_opener(legs: Legs, trunks: Iterable[Trunk], web: WebLegs) -> Callable[[CallOffer], Leg]:
    """Opens legs as the trunk wants them by which a call comes or goes, and for browsers."""
    known = {trunk.name: trunk for trunk in trunks}

    def open_leg(offer: CallOffer) -> Leg:
        if offer.kind == "webrtc":
            return web(offer)
        if offer.kind == MEETING:
            pair = offer.callee.startswith("livekit")
            return legs.open_pair_leg(offer.source[0]) if pair else legs.open_web_leg(offer.source[0])
        trunk = known.get(offer.trunk)
        if trunk is None:
            return legs.open_leg(offer.media, offer.source[0], networks=map(ip_network, offer.also))
        codecs = trunk.codecs or None
        return legs.open_leg(offer.media, offer.source[0], srtp=trunk.srtp, codecs=codecs, networks=trunk.peers)

    return open_leg


def _tls(settings: SipSettings) -> Tls:
    """What TLS is made of; without a certificate we can still call by it."""
    return Tls(
        settings.tls_cert,
        settings.tls_key,
        settings.tls_ca,
        demand=settings.tls_verify == "demand",
        port=settings.tls_port,
    )


def _tell_of_cards() -> None:
    """What nobody should have to find out from a manual: that a card could run more than the embedded model."""
    from engine.room import has_cuda

    if has_cuda():
        logger.info("- this machine has a CUDA device: %s voipagent serve  runs Moshi 7B on it", LARGE)


def _tell_of_personas(settings: Settings, engine: Engine) -> None:
    """Nor what the weights will not obey."""
    model, style = settings.engine.model, engine.prompt_style
    for persona in settings.who_answers:
        for line in advice(persona, model, style, engine.measure(as_told(persona))):
            logger.warning("- persona %s: %s", persona.name, line)


def _telling(engine: EngineSettings) -> Telling:
    """The embedded model was taught one form; others take any text."""
    return tell_facts if engine.model == "pocket" else tell_all


async def talk(settings: Settings, source: Path, target: Path, transcript: Path | None) -> None:
    """Send a file through the engine. Raises AudioFileError, EngineError."""
    seed = secrets.randbelow(2**31) if settings.engine.seed is None else settings.engine.seed
    check_distinct(source, target, *([transcript] if transcript else []))
    spoken = transcript or Path(os.devnull)
    with writing(spoken), open_private(spoken) as lines:

        def write(line: Line) -> None:
            lines.write(f"{line}\n".encode())

        alone = settings.engine.model_copy(update={"rows": 1})
        async with open_engine(alone, [settings.persona.voice]) as engine:
            persona = settings.persona.filled("a file", "agent", datetime.now().astimezone())
            await talk_through(engine, persona, persona.draw(engine.sampling, seed), source, target, write)
