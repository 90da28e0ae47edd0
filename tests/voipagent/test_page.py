"""The page's files over real HTTP, and that they keep what is promised of them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from voipagent.web.api import create_api, serve_http
from voipagent.web.page import STATIC, TYPES, Choice, PageFacts, choices, serve_page

FACTS = PageFacts("Ada", True, "agent", (Choice("sales", "Grace"),))


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    api = create_api(lambda: True)
    serve_page(api, FACTS)
    async with serve_http(api, "127.0.0.1", 0) as port:
        yield port


async def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    status, *rest = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in rest), body


async def test_the_page_comes_with_all_that_it_names_and_nothing_from_elsewhere() -> None:
    async with serving() as port:
        code, headers, body = await ask(port, "/")
        assert code == 200 and headers["content-type"] == "text/html; charset=utf-8"
        page = body.decode()
        named = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert {"static/app.js", "static/style.css", "static/icon.svg"} <= set(named)
        scripts = [path.name for path in STATIC.glob("*.js")]
        for path in [*named, *(f"static/{name}" for name in scripts)]:
            code, headers, body = await ask(port, f"/{path}")
            assert code == 200 and body, path
            imported = re.findall(r"^import .* from '(.+)';$", body.decode(), re.MULTILINE)
            assert all(name.removeprefix("./") in scripts for name in imported), path


async def test_nothing_runs_there_but_our_own_files() -> None:
    async with serving() as port:
        for path in ("/", "/static/app.js", "/page.json"):
            _, headers, _ = await ask(port, path)
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
            assert headers["permissions-policy"] == "microphone=(self), camera=(), geolocation=()"
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page), "the policy would not let it run"


async def test_a_browser_that_has_a_file_is_not_sent_it_again() -> None:
    async with serving() as port:
        _, headers, _ = await ask(port, "/static/app.js")
        assert headers["cache-control"] == "no-cache"
        again, _, body = await ask(port, "/static/app.js", If_None_Match=f'W/{headers["etag"]}, "other"')
        assert again == 304 and body == b""
        changed, _, body = await ask(port, "/static/app.js", If_None_Match='"other"')
        assert changed == 200 and body


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("HEAD", "/", 200),
        ("POST", "/", 405),
        ("GET", "/static/", 404),
        ("GET", "/static/../page.py", 404),
        ("GET", "/static/%2e%2e/page.py", 404),
        ("GET", "/static/none.js", 404),
    ],
)
async def test_there_is_nothing_else(method: str, path: str, code: int) -> None:
    async with serving() as port:
        assert (await ask(port, path, method))[0] == code


async def test_the_page_is_told_what_it_needs_to_know() -> None:
    async with serving() as port:
        code, headers, body = await ask(port, "/page.json")
    assert code == 200 and headers["cache-control"] == "no-store"
    assert json.loads(body) == {
        "agent": "Ada",
        "token": True,
        "recorded": "agent",
        "personas": [{"id": "sales", "name": "Grace"}],
        "endpoint": "duplex",
    }


def test_visitors_choose_of_those_that_are_allowed() -> None:
    names = [("sales", "Grace"), ("desk", "Ada")]
    assert choices([], names) == ()
    assert choices(["desk", "unknown"], names) == (Choice("desk", "Ada"),)
    assert choices(["*"], names) == (Choice("sales", "Grace"), Choice("desk", "Ada"))


def test_it_is_small_and_every_file_is_served() -> None:
    files = [path for path in STATIC.iterdir() if path.is_file()]
    assert {path.suffix for path in files} <= set(TYPES)
    assert sum(path.stat().st_size for path in files) < 60 * 1024


def test_every_element_that_the_script_asks_for_is_there() -> None:
    page = set(re.findall(r'\sid="([^"]+)"', (STATIC / "index.html").read_text()))
    asked = set(re.findall(r"\$\('([^']+)'\)", (STATIC / "app.js").read_text()))
    assert asked and asked <= page
