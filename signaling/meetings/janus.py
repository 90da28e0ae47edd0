"""A room of Janus's AudioBridge, by its API over HTTP: a session, a handle in it, and a long poll for what happens.

Our offer goes with the join's `configure`, so that the audio is WebRTC's. The poll keeps the session alive.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, TypeAlias

import httpx2

from signaling.call import Outcome
from signaling.meetings.meeting import JOIN_S, LEAVE_S, MeetingCall, NotJoined, Over
from signaling.meetings.place import Place

logger = logging.getLogger(__name__)

Message: TypeAlias = dict[str, Any]

PLUGIN = "janus.plugin.audiobridge"

ANSWER_S = 10.0
"""A request is answered in so long."""

POLL_S = 45.0
"""A poll is answered in so long: Janus says something in 30 s, and be it that there is nothing to say."""

GONE_S = 20.0
"""For so long we ask again when the server does not answer; then it is gone. If it has forgotten us, at once."""

WORD_S = 1.0
"""Of the room, on why we are let go, after we are."""

MAX_EVENTS = 16
"""That a poll asks for; more wait at the server."""

NO_SESSION, NO_ACCESS = 458, 403
"""Janus's error codes."""

NO_ROOM, NO_PIN, WRONG_PIN, WRONG_KIND = 485, 483, 489, 430
"""AudioBridge's."""


class JanusError(Exception):
    """Janus says no: its code, and its words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class JanusCall(MeetingCall):
    """A call into a room of AudioBridge."""

    def __init__(self, place: Place, address: tuple[str, int]) -> None:
        super().__init__(place, address)
        self._base = f"{place.web('http')}/{(place.base or 'janus').strip('/')}"
        self._session = self._handle = ""
        self._id: Any = None  # we, among the participants
        self._answer = self._let_go = ""
        self._candidates: list[str] = []

    async def _live(self, media: str) -> None:
        timeout = httpx2.Timeout(ANSWER_S, read=POLL_S)
        verified = self.place.encrypted  # reading the authorities takes its time
        async with httpx2.AsyncClient(timeout=timeout, trust_env=False, verify=verified) as self._http:
            try:
                async with asyncio.timeout(JOIN_S):
                    await self._join(media)
                self._joined()
                while not self._let_go:
                    await self._happen(await self._events())
                await self._say_why()
            except TimeoutError:
                raise NotJoined(
                    f"{self.place.server} did not let us in within {JOIN_S:g} s", Outcome.NO_ANSWER
                ) from None
            finally:
                await self._leave()

    async def _join(self, media: str) -> None:
        """Raises NotJoined."""
        place = self.place
        try:
            created = await self._post("", {"janus": "create"})
            self._session = f"/{created['data']['id']}"
            attached = await self._post(self._session, {"janus": "attach", "plugin": PLUGIN})
            self._handle = f"{self._session}/{attached['data']['id']}"
            room = int(place.room) if place.room.isdecimal() else place.room
            join: Message = {"request": "join", "room": room, "display": place.name}
            joined = await self._ask(join | ({"pin": place.pin} if place.pin else {}))
            self._id = joined["plugindata"]["data"]["id"]
            told = await self._ask({"request": "configure", "muted": False}, {"type": "offer", "sdp": media})
        except JanusError as error:
            raise self._refused(error) from None
        except httpx2.HTTPError as error:
            raise NotJoined(f"{place.server} cannot be reached: {_shown(error)}", Outcome.UNREACHABLE) from None
        except (KeyError, TypeError):
            raise NotJoined(f"what answers at {self._base} does not speak as Janus does", Outcome.FAILED) from None
        self._answer = str((told.get("jsep") or {}).get("sdp") or "")
        if not self._answer:
            raise NotJoined(f"{place.server} let us in, but gave no answer to our offer", Outcome.NOT_ACCEPTABLE)
        await self._take(self._answer, self._candidates)

    def _refused(self, error: JanusError) -> NotJoined:
        place = self.place
        if error.code == NO_ROOM:
            return NotJoined(f"there is no room {place.room!r} at {place.server}", Outcome.NOT_FOUND)
        if error.code in (NO_PIN, WRONG_PIN):
            return NotJoined(f"{place} wants {'another' if place.pin else 'a'} pin: {error}", Outcome.FORBIDDEN)
        if error.code == NO_ACCESS:
            return NotJoined(f"{place.server} wants another token or secret of its API: {error}", Outcome.FORBIDDEN)
        outcome = Outcome.NOT_FOUND if error.code == WRONG_KIND else Outcome.DECLINED
        return NotJoined(f"{place} does not take us: {error} ({error.code})", outcome)

    # --- asking ---

    async def _post(self, path: str, message: Message) -> Message:
        """What it says. Raises JanusError, HTTPError, NotJoined where it is no Janus that answers."""
        place = self.place
        opened = {"token": place.token} if place.token else {}
        opened |= {"apisecret": place.secret} if place.secret else {}
        whole = {"transaction": secrets.token_hex(6), **message, **opened}
        answer = await self._http.post(self._base + path, json=whole, timeout=ANSWER_S)
        return self._read(answer)

    def _read(self, answer: httpx2.Response) -> Message:
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise NotJoined(f"what answers at {self._base} is no Janus (HTTP {answer.status_code})", Outcome.FAILED)
        if told.get("janus") == "error":
            error = told.get("error") or {}
            raise JanusError(int(error.get("code", 0)), str(error.get("reason", "no reason given"))[:200])
        return told

    async def _ask(self, body: Message, jsep: Message | None = None) -> Message:
        """What AudioBridge says to that; what happens meanwhile is taken as it comes. Raises JanusError, HTTPError."""
        transaction = secrets.token_hex(6)
        message: Message = {"janus": "message", "transaction": transaction, "body": body}
        told = await self._post(self._handle, message | ({"jsep": jsep} if jsep else {}))
        while told.get("janus") == "ack" or told.get("transaction") != transaction:
            events = await self._events()
            told = next((each for each in events if each.get("transaction") == transaction), {})
            await self._happen([each for each in events if each is not told])
        data = (told.get("plugindata") or {}).get("data") or {}
        if "error_code" in data:
            raise JanusError(int(data["error_code"]), str(data.get("error", ""))[:200])
        return told

    async def _events(self) -> list[Message]:
        """What has happened, once something has. Raises Over where the server is gone, or has forgotten us."""
        place, waited_s, pause_s = self.place, 0.0, 0.5
        opened = {"token": place.token} if place.token else {}
        opened |= {"apisecret": place.secret} if place.secret else {}
        while True:
            try:
                url = self._base + self._session
                answer = await self._http.get(url, params={"maxev": str(MAX_EVENTS), **opened})
                told = answer.json() if answer.status_code == 200 else None
                if isinstance(told, list):
                    return [each for each in told if isinstance(each, dict)]
                if answer.status_code == 404:  # it says this, with nothing in it, of a session that there is not
                    raise JanusError(NO_SESSION, "no such session")
                return [self._read(answer)]
            except JanusError as error:
                if error.code == NO_SESSION:
                    raise Over("network", f"{place.server} was started anew, or has forgotten us") from None
                raise Over("network", f"{place.server} has no more to tell us: {error}") from None
            except (httpx2.HTTPError, ValueError, NotJoined) as error:
                if waited_s >= GONE_S:
                    raise Over("network", f"{place.server} is gone: {_shown(error)}") from None
                logger.info("x %s %s: %s", self.offer.id, place.server, _shown(error))
                await asyncio.sleep(pause_s)
                waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, 4.0)

    async def _say_why(self) -> None:
        """The audio is gone; the room's own word for it comes right before that, or right after. Raises Over."""
        try:
            async with asyncio.timeout(WORD_S):
                while True:
                    await self._happen(await self._events())
        except TimeoutError:
            raise Over("callee", self._let_go) from None

    # --- what happens ---

    async def _happen(self, events: list[Message]) -> None:
        """Raises Over."""
        for event in events:
            kind = event.get("janus")
            if kind == "trickle":
                await self._trickled(event.get("candidate") or {})
            elif kind in ("hangup", "detached"):
                self._let_go = f"{self.place} let us go: {event.get('reason') or kind}"
            elif kind == "timeout":
                raise Over("network", f"{self.place.server} has forgotten us")
            elif kind == "event":
                self._noted((event.get("plugindata") or {}).get("data") or {})

    def _noted(self, data: Message) -> None:
        """What AudioBridge tells of the room. Raises Over."""
        if self._id is None:
            return
        if data.get("kicked") == self._id:
            raise Over("callee", f"we were thrown out of {self.place}")
        if data.get("audiobridge") == "destroyed":
            raise Over("callee", f"the room {self.place} was closed")
        if data.get("leaving") == self._id or data.get("audiobridge") == "left":
            raise Over("callee", f"we are no longer in {self.place}")

    async def _trickled(self, candidate: Message) -> None:
        text = str(candidate.get("candidate") or "").removeprefix("a=")
        if not text or candidate.get("completed"):
            return
        self._candidates.append(text)
        if self._answer:
            await self._take(self._answer, self._candidates)

    async def _leave(self) -> None:
        """The session takes the handle with it, and that the place in the room."""
        if not self._session:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._post(self._session, {"janus": "destroy"})
        except (TimeoutError, httpx2.HTTPError, JanusError, NotJoined) as error:
            logger.info("x %s leaving %s: %s", self.offer.id, self.place, _shown(error))


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__
