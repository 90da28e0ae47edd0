"""The requests of a call of ours until it is answered: INVITE, CANCEL. Pure."""

from __future__ import annotations

from signaling.sip.capabilities import ALLOW
from signaling.sip.dialog import contact
from signaling.sip.grammar import host_port
from signaling.sip.message import SDP, Headers, Request
from signaling.sip.placed import Placed
from signaling.sip.sessiontimer import INTERVAL_S, SessionTimer, request_fields
from signaling.sip.transaction import COOKIE, cancellation

ELSEWHERE = ("Reason", 'SIP;cause=200;text="Call completed elsewhere"')
"""RFC 3326, section 3.1: so that a phone which rang in vain shows no missed call."""

_CREDENTIALS = ("Authorization", "Proxy-Authorization")


def invite_of(placed: Placed, token: str) -> Request:
    """The INVITE, as it is to be sent now; `token` tells its branch from others."""
    invitation, flow = placed.invitation, placed.flow
    # in an INVITE without an offer, a reliable provisional response could bring one, which its PRACK would answer
    reliable = (("Supported", "100rel"),) if placed.media is not None else ()
    timer = SessionTimer(INTERVAL_S, ours=True)
    fields = (
        ("Via", f"SIP/2.0/{flow.protocol} {host_port(*flow.local)};rport;branch={COOKIE}{token}"),
        ("Max-Forwards", "70"),
        *(("Route", route) for route in invitation.routes),
        ("From", f"<{invitation.address}>;tag={placed.tag}"),
        ("To", f"<{invitation.uri}>"),
        ("Call-ID", placed.call_id),
        ("CSeq", f"{placed.number} INVITE"),
        ("Contact", contact(flow, invitation.uri.lower().startswith("sips:"))),
        ("Allow", ALLOW),
        *reliable,
        *request_fields(timer, placed.min_se),
        *(placed.authenticator.fields("INVITE", invitation.uri) if placed.authenticator else ()),
        *((("Content-Type", SDP),) if placed.media else ()),
    )
    body = (placed.media or "").encode(errors="surrogateescape")
    return Request(Headers(fields), body, "INVITE", invitation.uri)


def cancel_of(placed: Placed, invite: Request) -> Request:
    """Its CANCEL. Who it is for cannot ask that for a password, so it has what the INVITE had (section 22.1)."""
    cancel = cancellation(invite)
    credentials = [field for field in invite.headers.fields if field[0] in _CREDENTIALS]
    why = (ELSEWHERE,) if placed.elsewhere else ()
    return Request(Headers((*cancel.headers.fields, *credentials, *why)), b"", "CANCEL", cancel.uri)
