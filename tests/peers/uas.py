"""SIPp as somebody who is called, with scenarios written where they are used."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

RESPONSE = """
SIP/2.0 {code} Fine
{via}
[last_From:]
{to}
[last_Call-ID:]
{cseq}
Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>
{rest}
"""

SDP = """Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio {port} RTP/AVP 0
a=rtpmap:0 PCMU/8000"""

EMPTY = "Content-Length: 0\n"


def expect(method: str, extra: str = "") -> str:
    return f'<recv request="{method}"{extra}/>'


REMEMBER = (
    '<recv request="INVITE"><action><ereg regexp=".*" search_in="hdr" header="Via:" assign_to="1"/>'
    '<ereg regexp=".*" search_in="hdr" header="To:" assign_to="2"/></action></recv>'
)
"""Expect an INVITE, and keep what a later response to it needs."""


def say(
    code: int, *, tag: str = "sipp", media: int = 0, fields: str = "", cseq: str = "[last_CSeq:]", late: bool = False
) -> str:
    """A response to the last request, with the port of its audio where `media` is one; `late`: to the one kept."""
    rest = "\n".join(filter(None, [fields, SDP.format(port=media) if media else EMPTY]))
    suffix = f";tag={tag}" if tag else ""
    via, to = ("Via:[$1]", "To:[$2]") if late else ("[last_Via:]", "[last_To:]")
    cseq = "CSeq: 1 INVITE" if late else cseq
    text = RESPONSE.format(code=code, to=to + suffix, rest=rest, cseq=cseq, via=via)
    return f"<send><![CDATA[{text}]]></send>"


@dataclass
class Called:
    """One that waits for a call; `over` fails with SIPp's own words where the scenario was not followed."""

    folder: Path
    port: int
    process: asyncio.subprocess.Process

    async def over(self) -> None:
        output, _ = await asyncio.wait_for(self.process.communicate(), 40)
        errors = "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*_errors.log"))
        assert self.process.returncode == 0, f"{output.decode(errors='replace')[-1500:]}\n{errors}"


@contextlib.asynccontextmanager
async def called(folder: Path, *steps: str) -> AsyncIterator[Called]:
    """SIPp that takes one call over UDP."""
    scenario = folder / "called.xml"
    scenario.write_text(f'<?xml version="1.0"?><scenario name="called">{"".join(steps)}</scenario>')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *("sipp", "-sf", scenario, "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", str(port), "-m", "1"),
        *("-nostdin", "-trace_err", "-timeout", "30s", "-timeout_error"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Called(folder, port, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
