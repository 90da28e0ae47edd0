"""Where requests of ours in a dialog are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from signaling.sip.dialog import Dialog
from signaling.sip.grammar import parse_uri
from signaling.sip.resolve import PORTS
from signaling.sip.transaction import Flow


def way_to(dialog: Dialog, trusted: Callable[[str], bool]) -> Flow:
    """As RFC 3261 has it if that is a host we trust, else back by the way the peer's requests came.

    A Contact or Record-Route must not turn us into somebody else's weapon, and behind a NAT it names no place.
    """
    flow = dialog.flow
    try:
        uri = parse_uri(dialog.next_hop)
    except ValueError:
        return flow
    host = uri.host.strip("[]").lower()
    in_reach = (":" in host) == (":" in flow.remote[0])  # of the socket that heard the peer
    if dialog.natted or not in_reach or not (host == flow.remote[0] or trusted(host)):
        return flow
    named = (host, uri.port or PORTS[flow.protocol])
    return replace(flow, spare=named) if flow.reliable else replace(flow, remote=named)
