"""SIPp, with scenarios written where they are used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

INVITE = """
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:load[call_number]@[local_ip]:[local_port]>;tag=[pid]T[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:load@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS
Content-Type: application/sdp
Content-Length: [len]

{offer}
"""

IN_DIALOG = """
{method} [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:load[call_number]@[local_ip]:[local_port]>;tag=[pid]T[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
[routes]
Call-ID: [call_id]
CSeq: {number} {method}
Contact: <sip:load@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
{rest}
"""

OFFER = """v=0
o=sipp 53655765 {version} IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [rtpstream_audio_port] RTP/AVP {payload_type} 101
a=rtpmap:{payload_type} {codec}/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=ptime:20
a={direction}"""


@dataclass(frozen=True)
class Talk:
    """A codec as SIPp names it, and a headerless file in it."""

    codec: str
    payload_type: int
    file: Path

    def offer(self, version: int = 1, direction: str = "sendrecv") -> str:
        return OFFER.format(version=version, payload_type=self.payload_type, codec=self.codec, direction=direction)

    @property
    def stream(self) -> str:
        """SIPp's verb that plays the file for ever."""
        return f'<nop><action><exec rtp_stream="{self.file},-1,{self.payload_type},{self.codec}/8000"/></action></nop>'


def send(text: str, retransmit: bool = True) -> str:
    opening = '<send retrans="500">' if retransmit else "<send>"
    return f"{opening}<![CDATA[{text}]]></send>"


def invite(talk: Talk) -> str:
    """Call, and take the answer."""
    return (
        send(INVITE.format(offer=talk.offer()))
        + '<recv response="100" optional="true"/><recv response="180" optional="true"/>'
        + '<recv response="200" rrs="true"/>'
        + ack(1)
    )


def ack(number: int) -> str:
    return send(IN_DIALOG.format(method="ACK", number=number, rest="Content-Length: 0\n"), retransmit=False)


def reinvite(talk: Talk, number: int, direction: str) -> str:
    body = talk.offer(number, direction)
    rest = f"Content-Type: application/sdp\nContent-Length: [len]\n\n{body}"
    return (
        send(IN_DIALOG.format(method="INVITE", number=number, rest=rest))
        + '<recv response="100" optional="true"/><recv response="200" rrs="true"/>'
        + ack(number)
    )


def bye(number: int) -> str:
    return send(IN_DIALOG.format(method="BYE", number=number, rest="Content-Length: 0\n")) + '<recv response="200"/>'


def pause(milliseconds: int) -> str:
    return f'<pause milliseconds="{milliseconds}"/>'


async def run(
    folder: Path,
    *steps: str,
    port: int,
    calls: int = 1,
    rate: int = 10,
    tcp: bool = False,
    options: tuple[str, ...] = (),
) -> None:
    """Play a scenario against the agent at `port`; fails with SIPp's own words."""
    scenario = folder / "scenario.xml"
    scenario.write_text(f'<?xml version="1.0"?><scenario name="test">{"".join(steps)}</scenario>')
    process = await asyncio.create_subprocess_exec(
        *("sipp", "-sf", scenario, f"127.0.0.1:{port}", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-s", "agent"),
        *("-m", str(calls), "-r", str(rate), "-l", str(rate), "-nostdin", "-trace_err", "-timeout", "90s"),
        *("-t", "t1" if tcp else "u1"),
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 100)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    errors = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*_errors.log"))
    assert process.returncode == 0, (
        f"SIPp ended with {process.returncode}\n{output.decode(errors='replace')[-1500:]}\n{errors}"
    )
