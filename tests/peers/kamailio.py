"""Kamailio: a registrar with passwords, and a proxy that stays in the route of each call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "secret-{user}"
"""Of each user."""

CONFIG = """#!KAMAILIO
debug=1
log_stderror=yes
fork=yes
children=1
tcp_children=1
auto_aliases=no
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/:/usr/lib/aarch64-linux-gnu/kamailio/modules/"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "siputils.so"
loadmodule "textops.so"
loadmodule "auth.so"
loadmodule "xlog.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "min_expires", 60)
modparam("registrar", "default_expires", {expires})
modparam("registrar", "max_expires", {expires})

request_route {{
  if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
  if (is_method("CANCEL")) {{ if (t_check_trans()) t_relay(); exit; }}
  if (has_totag()) {{
    if (loose_route()) {{ xlog("L_ALERT", "loose $rm $fU\\n"); route(MEDIA); t_relay(); exit; }}
    if (is_method("ACK") && t_check_trans()) {{ t_relay(); exit; }}
    sl_send_reply("404", "Not here"); exit;
  }}
  t_check_trans();
  if (is_method("REGISTER")) {{
    if (!pv_www_authenticate("$td", "secret-$fU", "0")) {{ www_challenge("$td", "1"); exit; }}
    save("location");
    xlog("L_ALERT", "saved $fU $hdr(Expires)\\n");
    exit;
  }}
  if (is_method("INVITE") && {asks} == 1) {{
    if (!pv_proxy_authenticate("$fd", "secret-$fU", "0")) {{ proxy_challenge("$fd", "1"); exit; }}
    consume_credentials();
  }}
  if (is_method("OPTIONS") && $rU == $null) {{ sl_send_reply("200", "Alive"); exit; }}
  record_route();
  if (!lookup("location")) {{ sl_send_reply("404", "Not registered"); exit; }}
  route(MEDIA);
  t_relay();
}}
"""

DIRECT = "route[MEDIA] { return; }\n"
"""What is done with session descriptions on their way: nothing."""


TLS = """
enable_tls=yes
listen=tls:127.0.0.1:{port}
loadmodule "tls.so"
modparam("tls", "private_key", "{certificate}")
modparam("tls", "certificate", "{certificate}")
modparam("tls", "tls_method", "TLSv1.2+")
"""


@dataclass
class Kamailio:
    """One that runs, at a port of loopback, over UDP and TCP; over TLS at another, or at none."""

    port: int
    log: Path
    tls_port: int = 0

    def trunk(self, user: str, name: str = "house", **more: str) -> dict[str, str]:
        """The environment of an agent that has it as a trunk."""
        values = {"HOST": "127.0.0.1", "PORT": str(self.port), "USER": user, "PASSWORD": PASSWORD.format(user=user)}
        return {f"VOIPAGENT_TRUNKS__{name.upper()}__{key}": value for key, value in (values | more).items()}

    async def said(self, text: str, times: int = 1) -> None:
        """Wait until its log has that so many times."""
        while self.log.read_text(errors="replace").count(text) < times:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def kamailio(
    expires: int = 600, asks: bool = False, certificate: Path | None = None, media: str = DIRECT
) -> AsyncIterator[Kamailio]:
    """Start it, and end it afterwards; `asks` has callers show their passwords, too.

    `media` is a route[MEDIA], which each request of a call passes.

    With a certificate, and its key in the same file, it is there over TLS as well, of 1.2 or later, which is not what
    it speaks by itself. Where it keeps its sockets a path must be short.
    """
    with tempfile.TemporaryDirectory(prefix="kam") as name:
        folder, port = Path(name), _free_port()
        config, tls_port = CONFIG.format(port=port, expires=expires, asks=int(asks)), 0
        if certificate is not None:
            tls_port = _free_port()
            config += TLS.format(port=tls_port, certificate=certificate)
        (folder / "kamailio.cfg").write_text(config + media)
        with open(folder / "log", "wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("kamailio", "-f", str(folder / "kamailio.cfg"), "-DD", "-E", "-m", "32", "-M", "4", "-Y", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await _listens(port, process, folder / "log")
            yield Kamailio(port, folder / "log", tls_port)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


def _free_port() -> int:
    """One that nobody has over UDP or TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                udp.bind(tcp.getsockname())
                return int(tcp.getsockname()[1])


async def _listens(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(20):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return
    raise AssertionError(f"kamailio ended before it listened:\n{log.read_text(errors='replace')[-2000:]}")
