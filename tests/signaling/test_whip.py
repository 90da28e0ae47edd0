"""Calls by HTTP: each status that RFC 9725 has, and problem bodies for all that goes wrong. No media in here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from signaling.call import CallEnded, Rejection, SignalingError
from signaling.front import FRAGMENT, SDP, Front
from signaling.problem import Access, Problem
from signaling.webcall import WebCall
from signaling.whip import WhipEndpoint

TOKEN = {"Authorization": "Bearer s3cret"}
LINK = '<stun:192.0.2.7:3478>; rel="ice-server"'
OPEN = Access(open=True)


class Agent:
    """Takes each call as its offer says: `accept`, or the name of a rejection."""

    def __init__(self, endpoint: WhipEndpoint) -> None:
        self.endpoint = endpoint
        self.calls: list[WebCall] = []
        self.fragments: list[str] = []
        self.slow = asyncio.Event()

    async def run(self) -> None:
        async for call in self.endpoint.calls():
            self.calls.append(call)
            text = call.offer.media or ""
            self.endpoint.take_candidates(call.offer.id, self.candidates)
            if text == "accept":
                call.renegotiate = self.change
                await call.ring()
                await call.accept(f"answer to {call.offer.callee}")
            elif text == "gone":
                await call.hang_up("the engine failed")
            elif text != "ignored":
                await call.reject(Rejection[text.upper()])
                await call.hang_up("no audio in it" if text == "not_acceptable" else "")

    async def change(self, offer: str | None) -> str | Rejection:
        if offer == "slow":
            await self.slow.wait()
        return Rejection.NOT_ACCEPTABLE if offer == "bad" else f"answer to {offer}"

    async def candidates(self, fragment: str) -> None:
        if fragment == "restart":
            raise Problem(422, "another ICE session")
        self.fragments.append(fragment)


def fault(sdp: str) -> str:
    return "line 1 is no v=0" if sdp == "malformed" else ""


@asynccontextmanager
async def serving(access: Access = OPEN, client: str = "192.0.2.9") -> AsyncIterator[tuple[httpx2.AsyncClient, Agent]]:
    endpoint = WhipEndpoint(Front(access, fault, lambda: [LINK]))
    endpoint.available = lambda: True
    app = Starlette()
    endpoint.serve(app)
    agent = Agent(endpoint)
    running = asyncio.create_task(agent.run())
    transport = httpx2.ASGITransport(app, client=(client, 5000))
    async with asyncio.timeout(20), httpx2.AsyncClient(transport=transport, base_url="http://agent.test") as http:
        yield http, agent
    running.cancel()
    await asyncio.wait([running])


async def post(http: httpx2.AsyncClient, body: str, path: str = "/duplex", **headers: str) -> httpx2.Response:
    return await http.post(path, content=body, headers={"Content-Type": SDP, **headers})


def problem(response: httpx2.Response) -> str:
    """What is told of it; that it is a problem body, too."""
    assert response.headers["content-type"] == "application/problem+json"
    body = json.loads(response.text)
    assert body["status"] == response.status_code and body["title"] and body["type"] == "about:blank"
    return str(body["detail"])


# --- the good way


@pytest.mark.parametrize("name", ["duplex", "whip"])
async def test_an_offer_is_answered_with_201_and_all_that_a_client_needs(name: str) -> None:
    async with serving() as (http, agent):
        created = await post(http, "accept", f"/{name}?persona=")
        assert (created.status_code, created.text) == (201, f"answer to {name}")
        assert created.headers["content-type"].startswith(SDP) and created.headers["cache-control"] == "no-store"
        assert created.headers["link"] == LINK and created.headers["accept-patch"] == FRAGMENT
        (call,) = agent.calls
        assert created.headers["location"] == f"/{name}/{call.session}" and created.headers["etag"] == call.etag
        assert (call.offer.kind, call.offer.source) == ("webrtc", ("192.0.2.9", 5000))
        assert agent.endpoint.call_of(call.session) == call.offer.id and call.session not in call.offer.id


async def test_candidates_are_handed_on_with_204() -> None:
    async with serving() as (http, agent):
        created = await post(http, "accept")
        for tag in (created.headers["etag"], f'"other", {created.headers["etag"]}'):
            headers = {"Content-Type": FRAGMENT, "If-Match": tag}
            done = await http.patch(created.headers["location"], content="a=candidate", headers=headers)
            assert (done.status_code, done.text) == (204, "")
        assert agent.fragments == ["a=candidate"] * 2


async def test_another_offer_goes_on_with_the_same_call_under_another_tag() -> None:
    async with serving() as (http, agent):
        created = await post(http, "accept")
        url = created.headers["location"]
        again = await post(http, "anew", url)
        assert (again.status_code, again.text) == (200, "answer to anew")
        assert again.headers["etag"] not in ("", created.headers["etag"])
        headers = {"Content-Type": FRAGMENT, "If-Match": created.headers["etag"]}
        late = await http.patch(url, content="a=candidate", headers=headers)
        assert late.status_code == 412 and late.headers["etag"] == again.headers["etag"]
        assert len(agent.calls) == 1


async def test_deleting_hangs_up_and_then_there_is_nothing() -> None:
    async with serving() as (http, agent):
        url = (await post(http, "accept")).headers["location"]
        assert (await http.delete(url)).status_code == 200
        assert await agent.calls[0].wait_ended() == CallEnded("caller", "hung up")
        for method, body in (("DELETE", ""), ("POST", "anew"), ("PATCH", "a=candidate")):
            headers = {"Content-Type": SDP if method == "POST" else FRAGMENT, "If-Match": "*"}
            gone = await http.request(method, url, content=body, headers=headers)
            assert (gone.status_code, problem(gone)) == (404, "there is no such session, or no more")


async def test_options_say_what_may_be_done_and_tell_of_ice_servers() -> None:
    async with serving() as (http, agent):
        there = await http.options("/duplex")
        assert (there.status_code, there.headers["allow"]) == (204, "POST, OPTIONS")
        assert (there.headers["accept-post"], there.headers["link"]) == (SDP, LINK)
        session = await http.options((await post(http, "accept")).headers["location"])
        assert session.headers["allow"] == "POST, PATCH, DELETE, OPTIONS"
        assert session.headers["accept-patch"] == FRAGMENT


# --- what goes wrong


@pytest.mark.parametrize(
    "body, status, why, retry",
    [
        ("busy", 503, "all rows are in calls", True),
        ("overloaded", 503, "no calls are taken now", True),
        ("not_found", 404, "there is nobody of that name", False),
        ("not_acceptable", 406, "no audio in it", False),
        ("gone", 503, "the engine failed", True),
        ("malformed", 400, "line 1 is no v=0", False),
    ],
)
async def test_each_refusal_has_its_status(body: str, status: int, why: str, retry: bool) -> None:
    async with serving() as (http, agent):
        refused = await post(http, body)
        assert (refused.status_code, problem(refused)) == (status, why)
        assert ("retry-after" in refused.headers) is retry
        assert not agent.endpoint._calls


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_the_endpoint_takes_nothing_but_offers(method: str) -> None:
    async with serving() as (http, _):
        refused = await http.request(method, "/whip")
        assert refused.status_code == 405 and refused.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_a_session_is_not_read(method: str) -> None:
    async with serving() as (http, _):
        refused = await http.request(method, (await post(http, "accept")).headers["location"])
        assert refused.status_code == 405 and refused.headers["allow"] == "POST, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("told", ["", "text/plain", "application/json", "application/sdpx"])
async def test_the_type_of_a_body_must_be_right(told: str) -> None:
    async with serving() as (http, agent):
        refused = await http.post("/duplex", content="accept", headers={"Content-Type": told})
        assert refused.status_code == 415 and SDP in problem(refused) and not agent.calls
        url = (await post(http, "accept")).headers["location"]
        headers = {"Content-Type": told, "If-Match": "*"}
        assert (await http.patch(url, content="a=candidate", headers=headers)).status_code == 415
        assert (await http.post(url, content="anew", headers={"Content-Type": told})).status_code == 415


@pytest.mark.parametrize(
    "tag, body, status",
    [(None, "a=candidate", 428), ("*", "a=candidate", 422), ('"other"', "a=candidate", 412), (True, "restart", 422)],
)
async def test_candidates_need_the_right_tag_and_ice_is_not_restarted(
    tag: str | bool | None, body: str, status: int
) -> None:
    async with serving() as (http, agent):
        created = await post(http, "accept")
        match = {} if tag is None else {"If-Match": created.headers["etag"] if tag is True else str(tag)}
        refused = await http.patch(
            created.headers["location"], content=body, headers={"Content-Type": FRAGMENT, **match}
        )
        assert refused.status_code == status and problem(refused) and not agent.fragments


async def test_a_body_that_is_no_text_is_bad() -> None:
    async with serving() as (http, _):
        refused = await http.post("/duplex", content=b"\xff\xfe", headers={"Content-Type": SDP})
        assert (refused.status_code, problem(refused)) == (400, "the body is not UTF-8")


async def test_who_goes_in_the_middle_of_a_body_is_no_fault_of_ours() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    endpoint = WhipEndpoint(Front(OPEN, fault, tuple))
    app = Starlette()
    endpoint.serve(app)
    headers = [(b"content-type", SDP.encode()), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/duplex", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    assert sent[0]["status"] == 400


async def test_a_change_that_is_refused_or_too_slow_leaves_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.whip.CHANGE_S", 0.2)
    async with serving() as (http, agent):
        created = await post(http, "accept")
        url = created.headers["location"]
        assert (await post(http, "bad", url)).status_code == 406
        slow = asyncio.create_task(post(http, "slow", url))
        while not agent.calls[0].changing.locked():
            await asyncio.sleep(0)
        meanwhile = await post(http, "anew", url)
        assert (meanwhile.status_code, problem(meanwhile)) == (409, "the session is being changed already")
        assert (await slow).status_code == 503 and agent.calls[0].etag == created.headers["etag"]
        assert (await post(http, "anew", url)).status_code == 200


async def test_who_is_not_served_in_time_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.whip.DECIDE_S", 0.05)
    async with serving() as (http, agent):
        refused = await post(http, "ignored")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "10"
        assert agent.calls[0].is_over
        agent.endpoint.available = lambda: False
        assert (await post(http, "accept")).status_code == 503 and len(agent.calls) == 1


async def test_more_calls_than_can_wait_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.whip.MAX_WAITING", 2)
    endpoint = WhipEndpoint(Front(OPEN, fault, tuple))
    endpoint.available = lambda: True
    app = Starlette()
    endpoint.serve(app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://agent.test") as http:
        waiting = [asyncio.create_task(post(http, "accept")) for _ in range(2)]
        while endpoint._offered.qsize() < 2:
            await asyncio.sleep(0)
        assert problem(await post(http, "accept")) == "too many calls at once"
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


# --- who may


async def test_without_a_token_nobody_may_but_where_it_is_open() -> None:
    async with serving(Access(hint="set a token")) as (http, agent):
        refused = await post(http, "accept")
        assert (refused.status_code, problem(refused)) == (403, "set a token")
        assert "link" not in (await http.options("/duplex")).headers and not agent.calls


@pytest.mark.parametrize("told", ["", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret2", "Bearer ü"])
async def test_a_wrong_token_is_401_everywhere(told: str) -> None:
    async with serving(Access(("s3cret", "other"))) as (http, agent):
        wrong = [(b"Authorization", told.encode())] if told else []
        refused = await http.post("/duplex", content=b"accept", headers=[(b"Content-Type", SDP.encode()), *wrong])
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer" and problem(refused)
        url = (await post(http, "accept", **TOKEN)).headers["location"]
        for method in ("POST", "PATCH", "DELETE"):
            assert (await http.request(method, url, headers=wrong)).status_code == 401
        assert (await http.delete(url, headers={"Authorization": "bearer other"})).status_code == 200
        assert len(agent.calls) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8998", 201),
        ("127.0.0.1:8998", 201),
        ("[::1]:8998", 201),
        ("evil.example:8998", 403),
        ("10.0.0.1", 403),
    ],
)
async def test_open_to_this_machine_is_not_open_to_pages_that_name_it_otherwise(host: str, status: int) -> None:
    """A page has its own name looked up as 127.0.0.1, and is of our origin then (DNS rebinding)."""
    async with serving(Access(local=True, hint="set a token"), client="127.0.0.1") as (http, agent):
        told = {"Host": host, "Origin": f"http://{host}"}
        assert (await post(http, "accept", **told)).status_code == status
        assert ("link" in (await http.options("/duplex", headers=told)).headers) is (status == 201)
    async with serving(Access(("s3cret",), local=True), client="127.0.0.1") as (http, agent):
        assert (await post(http, "accept", **told, **TOKEN)).status_code == 201


@pytest.mark.parametrize(
    ("client", "told"),
    [("192.0.2.9", {}), ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}), ("127.0.0.1", {"Forwarded": "for=192.0.2.9"})],
)
async def test_open_to_this_machine_is_not_open_to_others(client: str, told: dict[str, str]) -> None:
    async with serving(Access(local=True, hint="set a token"), client=client) as (http, agent):
        refused = await post(http, "accept", Host="localhost", **told)
        assert (refused.status_code, problem(refused)) == (403, "set a token") and not agent.calls


async def test_pages_of_other_origins_may_call_where_they_are_named() -> None:
    ours, other, foe = "http://agent.test", "https://www.example.com", "https://evil.example"
    async with serving(Access(open=True, origins=(other,))) as (http, agent):
        for origin, status in ((ours, 201), (other, 201), (foe, 403), ("null", 403)):
            answer = await post(http, "accept", Origin=origin)
            assert answer.status_code == status
            assert answer.headers.get("access-control-allow-origin") == (other if origin == other else None)
        preflight = await http.options("/duplex", headers={"Origin": other, "Access-Control-Request-Method": "POST"})
        assert preflight.headers["access-control-allow-headers"] == "Authorization, Content-Type, If-Match"
        assert "access-control-allow-methods" not in (await http.options("/duplex", headers={"Origin": foe})).headers
        created = await post(http, "accept", Origin=other)
        assert "Location" in created.headers["access-control-expose-headers"] and created.headers["vary"] == "Origin"


async def test_a_persona_may_be_asked_for_where_it_is_allowed() -> None:
    async with serving(Access(open=True, personas=("zoe",))) as (http, agent):
        assert (await post(http, "accept", "/duplex?persona=zoe")).status_code == 201
        assert agent.calls[0].offer.wanted == "zoe"
        refused = await post(http, "accept", "/duplex?persona=boss")
        assert (refused.status_code, problem(refused)) == (403, "the persona 'boss' cannot be asked for here")
    async with serving(Access(open=True, personas=("*",))) as (http, agent):
        assert (await post(http, "accept", "/duplex?persona=boss")).status_code == 201


async def test_a_room_may_be_named_with_what_opens_it_and_who_comes() -> None:
    async with serving() as (http, agent):
        await post(http, "accept", "/duplex?room=StandUp&pin=4711&name=Ada%20L.")
        await post(http, "accept", f"/duplex?name={'x' * 99}")
        first, second = (call.offer for call in agent.calls)
        assert (first.room, first.pin, first.caller) == ("standup", "4711", "Ada L.")
        assert "4711" not in repr(first)
        assert (second.room, second.pin, len(second.caller)) == ("", "", 64)
        refused = await post(http, "not_found", "/duplex?room=nowhere")
        assert refused.status_code == 404


async def test_a_session_of_one_kind_is_none_of_another() -> None:
    async with serving() as (http, agent):
        session = (await post(http, "accept", "/duplex")).headers["location"].rpartition("/")[2]
        assert (await http.delete(f"/whip/{session}")).status_code == 404
        assert (await post(http, "accept", f"/whep/{session}")).status_code == 404
        assert not agent.calls[0].is_over


# --- what is left


async def test_nothing_is_left_of_calls_but_for_a_while_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.whip.KEPT_S", 0.05)
    async with serving() as (http, agent):
        url = (await post(http, "accept")).headers["location"]
        await http.delete(url)
        session = url.rpartition("/")[2]
        assert agent.endpoint.call_of(session) == agent.calls[0].offer.id
        async with asyncio.timeout(5):
            while agent.endpoint.call_of(session) is not None:
                await asyncio.sleep(0.01)
        assert not agent.endpoint._candidates and not agent.endpoint._calls and not agent.endpoint._ended


@pytest.mark.parametrize("body", ["not_acceptable", "busy", "gone", "ignored"])
async def test_nothing_is_left_of_a_call_that_is_not_taken(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Its leg takes candidates from the moment that it is opened, which is before anybody reads the offer."""
    monkeypatch.setattr("signaling.whip.DECIDE_S", 0.05)
    async with serving() as (http, agent):
        assert (await post(http, body)).status_code in (406, 503)
        endpoint, (call,) = agent.endpoint, agent.calls
        await asyncio.sleep(0)  # in which the end of the call is told
        endpoint.take_candidates(call.offer.id, agent.candidates)  # too late: it took its time
        assert not endpoint._candidates and not endpoint._calls


async def test_what_http_cannot_do_is_said() -> None:
    async with serving() as (http, agent):
        await post(http, "accept")
        (call,) = agent.calls
        with pytest.raises(SignalingError, match="cannot be asked for a change"):
            await call.propose("offer")
        with pytest.raises(SignalingError, match="cannot be sent elsewhere"):
            await call.transfer("+4930")
        await call.reject(Rejection.BUSY)
        assert not call.is_over and call.rejection is None
        await call.hang_up("bye")
        await call.hang_up("again")
        assert await call.wait_ended() == CallEnded("agent", "bye")
