"""A headless Chromium, driven over a pipe in its own words (the DevTools protocol), with a file as its microphone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars"),
    "--allow-loopback-in-peer-connection",  # else it gathers no candidates on a machine that has nothing but loopback
    "--disable-features=WebRtcHideLocalIpsWithMdns,Translate",
)

MOST = 64 << 20
"""Bytes of one message: pictures are in them."""


class PageError(Exception):
    """What a page's script threw."""


@dataclass
class Chromium:
    """One that runs."""

    _reader: asyncio.StreamReader
    _writer: asyncio.WriteTransport
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _pages: dict[str, Page] = field(default_factory=dict)

    async def listen(self) -> None:
        """Take what it says, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if (waiting := self._waiting.pop(message.get("id", 0), None)) is not None:
                    if not waiting.done():
                        waiting.set_result(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.take(message["method"], message["params"])
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PageError("Chromium ended"))

    async def ask(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Have it do something; gives the result. Raises PageError where it refuses."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._writer.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(60):
            told = await answer
        if "error" in told:
            raise PageError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    async def open(
        self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False, first: str = ""
    ) -> Page:
        """A new page of that size; `first` is a script that runs before those of the page."""
        target = (await self.ask("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.ask(f"{domain}.enable")
        await page.resize(width, height, dark=dark)
        if first:
            await page.ask("Page.addScriptToEvaluateOnNewDocument", source=first)
        await page.ask("Page.navigate", url=url)
        await page.until("document.readyState === 'complete'")
        return page


@dataclass
class Page:
    """One page. `faults` has what its scripts threw, and what the browser complained of."""

    _browser: Chromium
    _session: str
    faults: list[str] = field(default_factory=list)

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Take an event."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.ask(method, self._session, **params)

    async def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is. Raises PageError."""
        told = await self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if (fault := told.get("exceptionDetails")) is not None:
            raise PageError(fault.get("exception", {}).get("description", fault["text"]))
        return told["result"].get("value")

    async def until(self, script: str, timeout_s: float = 20.0) -> Any:
        """Wait until an expression holds; gives its value."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (value := await self.run(script)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"after {timeout_s:g} s not yet {script}\nfaults {self.faults}\n{shown}") from None
        return value

    async def text(self, selector: str) -> str:
        """What is read there; "" for what is not shown."""
        return str(
            await self.run(f"(e => e.checkVisibility() ? e.innerText : '')(document.querySelector({selector!r}))")
        )

    async def click(self, selector: str) -> None:
        """Press the button of the mouse where the middle of that element is."""
        place = await self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def press(self, key: str, text: str = "") -> None:
        """Press a key of the keyboard; `text` is what it writes."""
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, ord(key[0].upper()))
        told = {"key": key, "windowsVirtualKeyCode": code}
        await self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **told)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **told)

    async def resize(self, width: int, height: int, *, dark: bool = False, still: bool = False) -> None:
        """The window, and what its user prefers."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def picture(self, path: Path) -> None:
        """Keep what is seen as a PNG."""
        await self.ask("Page.bringToFront")  # one behind is not drawn
        data = (await self.ask("Page.captureScreenshot", format="png"))["data"]
        path.write_bytes(base64.b64decode(data))


@asynccontextmanager
async def chromium(
    microphone: Path | None = None,
    *,
    again: bool = False,
    flags: Sequence[str] = (),
    allowed: bool = True,
    netns: str = "",
) -> AsyncIterator[Chromium]:
    """Start it, and end it afterwards. `microphone` is a WAV file, said once, or `again` and again; without one there
    is a tone that beeps. `allowed`: pages may use it. `netns` is a network namespace to be in.
    """
    given = ["--use-fake-device-for-media-stream"]
    given += [f"--use-file-for-fake-audio-capture={microphone}{'' if again else '%noloop'}"] if microphone else []
    given += ["--use-fake-ui-for-media-stream" if allowed else "--deny-permission-prompts"]
    inside = ("ip", "netns", "exec", netns) if netns else ()
    to_it, ours = os.pipe()
    from_it, its = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(*inside, "bash", "-c", f'exec "$@" 3<&{to_it} 4>&{its}', "bash", shutil.which("chromium") or "chromium"),
            *(*FLAGS, f"--user-data-dir={folder}", *given, *flags, "about:blank"),
            pass_fds=(to_it, its),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": folder},
        )
        os.close(to_it)
        os.close(its)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(MOST)
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_it, "rb", 0)
        )
        outgoing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ours, "wb", 0))
        browser = Chromium(reader, outgoing)
        listening = asyncio.create_task(browser.listen())
        try:
            yield browser
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(browser.ask("Browser.close"), 5)
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
            outgoing.close()
            incoming.close()
            await listening
