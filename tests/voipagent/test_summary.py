"""A summariser behind an endpoint: it may be slow, fail, talk nonsense or never stop; all of that is one error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from voipagent.context import Line
from voipagent.story import MOST_CHARACTERS, Story
from voipagent.summary import MOST_BYTES, Endpoint, Extractive, SummaryError

LINES = [Line("caller", "my name is Maria", 0.0, 1.0), Line("agent", "Thank you, Maria", 1.0, 2.0)]

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def completion(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def whole(body: bytes, status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return answer


async def never(writer: asyncio.StreamWriter) -> None:
    """The peer waits for us to give up."""


async def for_ever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b"[" * 100_000)


@asynccontextmanager
async def endpoint(answer: Answer, timeout_s: float = 5.0) -> AsyncIterator[tuple[Endpoint, list[tuple[str, bytes]]]]:
    """A summariser, and what it was asked: (head, body)."""
    asked: list[tuple[str, bytes]] = []

    served: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(over := asyncio.Event())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            (length,) = re.findall(r"(?i)content-length: (\d+)", head)
            asked.append((head, await reader.readexactly(int(length))))
            await answer(writer)
            await writer.drain()
            if answer is never:
                await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Endpoint(f"http://127.0.0.1:{port}/v1/", "small", "secret", timeout_s) as summarizer:
        yield summarizer, asked
    async with asyncio.timeout(5):
        for over in served:
            await over.wait()


async def test_the_endpoint_is_asked_as_openais_is_and_the_facts_are_our_own() -> None:
    async with endpoint(whole(completion(" Maria calls\nabout <b>a bike</b>. "))) as (summarizer, asked):
        story = await summarizer.summarize(Story({}, "She rang."), LINES)
    assert story == Story({"name": "Maria"}, "Maria calls about a bike .")
    ((head, body),) = asked
    assert head.startswith("POST /v1/chat/completions ")
    assert "authorization: bearer secret" in head.lower()
    sent = json.loads(body)
    assert sent["model"] == "small"
    assert sent["messages"][0]["role"] == "system"
    assert "She rang." in sent["messages"][1]["content"]
    assert "caller: my name is Maria\nagent: Thank you, Maria" in sent["messages"][1]["content"]


async def test_the_endpoint_is_told_who_of_several_spoke() -> None:
    said = [Line("caller", "I will", 1.0, 2.0, speaker="ada"), Line("caller", "I will not", 3.0, 4.0, speaker="bob")]
    async with endpoint(whole(completion("They differ."))) as (summarizer, asked):
        await summarizer.summarize(Story(), said)
    assert "ada: I will\nbob: I will not" in json.loads(asked[0][1])["messages"][1]["content"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (whole(b"oops", "500 Internal Server Error"), "answered 500 Internal Server Error"),
        (whole(b"oops", "401 Unauthorized"), "answered 401"),
        (whole(b"<html>"), "no chat completion"),
        (whole(b'{"choices": []}'), "no chat completion"),
        (whole(b"[" * 5000), "no chat completion"),
        (whole(completion(None)), "has no text"),
        (whole(completion(" <tag> ")), "has no text"),
        (for_ever, f"longer than {MOST_BYTES} bytes"),
        (whole(completion("x" * 100_000)), f"longer than {MOST_BYTES} bytes"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_the_reason(answer: Answer, complaint: str) -> None:
    async with endpoint(answer) as (summarizer, _):
        with pytest.raises(SummaryError, match=complaint):
            await summarizer.summarize(Story(), LINES)


async def test_one_that_does_not_answer_is_given_up() -> None:
    async with endpoint(never, timeout_s=0.2) as (summarizer, asked):
        with pytest.raises(SummaryError, match="did not answer within 0.2 s"):
            await summarizer.summarize(Story(), LINES)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:9", "ConnectError"),
        ("http://127.0.0.1:99999/v1", "ExceptionGroup"),
        ("http://127.0.0.1:abc/v1", "InvalidURL"),
        (f"http://ä{'b' * 70}.example/v1", "InvalidURL"),
    ],
)
async def test_one_that_is_not_there_is_told(url: str, error: str) -> None:
    async with Endpoint(url, "small") as summarizer:
        with pytest.raises(SummaryError, match=f"cannot be asked: {error}"):
            await summarizer.summarize(Story(), LINES)


async def test_a_summary_is_cut_at_a_word() -> None:
    async with endpoint(whole(completion("word " * 1000))) as (summarizer, _):
        story = await summarizer.summarize(Story(), LINES)
    assert len(story.text) <= MOST_CHARACTERS
    assert story.text.endswith("word")


async def test_the_embedded_one_needs_nobody() -> None:
    assert (await Extractive().summarize(Story(), LINES)).facts == {"name": "Maria"}


async def test_a_fact_of_long_ago_is_carried_on_without_reading_everything_again() -> None:
    many = [Line("caller", "and so on", at, at + 1) for at in range(1_000)]
    told = await Extractive().summarize(Story({"name": "Maria", "number": "352"}), [*LINES, *many])
    assert told.facts == {"name": "Maria", "number": "352"}
    newer = Line("agent", "Thank you, Peter.", 1_001, 1_002)
    assert (await Extractive().summarize(told, [*many, newer])).facts == {"name": "Peter", "number": "352"}
