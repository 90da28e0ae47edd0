"""STUN and TURN servers: their URIs, and passwords made for a while."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from media.iceservers import IceServer


@pytest.mark.parametrize(
    "uri, host, port, transport, written",
    [
        ("stun:192.0.2.7", "192.0.2.7", 3478, "udp", "stun:192.0.2.7:3478"),
        (" stun:stun.example.com:19302 ", "stun.example.com", 19302, "udp", "stun:stun.example.com:19302"),
        ("stun:[2001:db8::1]:3479", "2001:db8::1", 3479, "udp", "stun:[2001:db8::1]:3479"),
        ("turn:t.example.com", "t.example.com", 3478, "udp", "turn:t.example.com:3478?transport=udp"),
        ("turn:t.example.com:80?transport=tcp", "t.example.com", 80, "tcp", "turn:t.example.com:80?transport=tcp"),
        ("turns:t.example.com", "t.example.com", 5349, "tcp", "turns:t.example.com:5349?transport=tcp"),
    ],
)
def test_a_server_is_read_and_written(uri: str, host: str, port: int, transport: str, written: str) -> None:
    server = IceServer.parse(uri, "ada", "pass")
    assert (server.host, server.port, server.transport, server.uri) == (host, port, transport, written)
    assert (
        IceServer.parse(server.uri.partition("?")[0] if not server.is_turn else server.uri, "ada", "pass").host == host
    )


@pytest.mark.parametrize(
    "uri", ["", "stun", "stun:", "http://x", "stuns:x", "stun:x:0", "stun:x:99999", "turn:x?transport=sctp", "stun:a b"]
)
def test_what_is_no_server_is_told(uri: str) -> None:
    with pytest.raises(ValueError, match="is no STUN or TURN server, such as"):
        IceServer.parse(uri, "ada", "pass")


def test_turn_needs_a_user() -> None:
    for told in (("", "", ""), ("ada", "", ""), ("", "pass", "")):
        with pytest.raises(ValueError, match="needs a user and a password"):
            IceServer.parse("turn:x", *told)


def test_a_password_is_as_it_is_or_made_from_the_secret() -> None:
    fixed = IceServer.parse("turn:x", "ada", 'pa"ss')
    assert fixed.credentials(1234) == ("ada", 'pa"ss')
    assert fixed.link(1234).split("; ") == [
        *("<turn:x:3478?transport=udp>", 'rel="ice-server"'),
        *('username="ada"', 'credential="pa\\"ss"', 'credential-type="password"'),
    ]
    made = IceServer.parse("turn:x", secret="north")
    user, password = made.credentials(1234)
    digest = hmac.digest(b"north", b"1234:voipagent", hashlib.sha1)
    assert (user, base64.b64decode(password)) == ("1234:voipagent", digest)
    assert made.credentials(1235) != made.credentials(1234)
    assert "north" not in repr(made) and "pa" not in repr(fixed)
    assert IceServer.parse("stun:x").link(0) == '<stun:x:3478>; rel="ice-server"'
