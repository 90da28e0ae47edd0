"""guard.py: right and wrong answers, old ones, repeated ones, and too many."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.sip import guard as guards
from signaling.sip.digest import ALGORITHMS, Challenge, Login, answer, challenges, parse_challenge
from signaling.sip.guard import BAN_S, FAILURES, FAILURES_S, NONCE_S, WINDOW, Guard, Outcome
from signaling.sip.message import Headers, Request
from tests.signaling.sip.test_digest import LOGIN, RFC_2617, URI, authenticator, numbered, refusal

PEER = "192.0.2.7"


def guard(**changed: object) -> Guard:
    settings: dict[str, object] = {"realm": "house", "users": {"alice": "wonderland", "bob": "sponge"}, "key": b"key"}
    return Guard(token=numbered(), **settings | changed)  # type: ignore[arg-type]  # a test's own


def asking(fields: tuple[tuple[str, str], ...], method: str = "REGISTER", uri: str = URI) -> Request:
    return Request(Headers(fields), b"", method, uri)


def answered(
    gate: Guard, now: float, *, login: Login = LOGIN, source: str = PEER, method: str = "REGISTER", only: int = 0
) -> Request:
    """A request with the answer to a challenge of the gate's; `only` picks one of its algorithms."""
    ours = authenticator(login)
    ours.learn(refusal(gate.challenge(source, now)[only]))
    return asking(ours.fields(method, URI), method)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_sides_understand_each_other(algorithm: str) -> None:
    gate = guard(algorithms=(algorithm,))
    request = answered(gate, 10.0)
    assert f"algorithm={algorithm}," in request.headers.get("Authorization")
    assert gate.check(request, PEER, 10.1).user == "alice"


def test_the_better_algorithm_is_offered_first() -> None:
    first, second = challenges(refusal(*guard().challenge(PEER, 0.0)))
    assert (first.algorithm, second.algorithm) == ("SHA-256", "MD5")
    assert first.nonce == second.nonce
    assert guard().check(answered(gate := guard(), 0.0, only=1), PEER, 0.0).stale is False
    assert gate.check(answered(gate, 0.0, only=1), PEER, 0.0).user == "alice"


def test_without_credentials_it_is_nobody_and_no_failure() -> None:
    gate = guard()
    for fields in (
        (),
        (("Authorization", "NoOneKnowsThisScheme opaque-data=here"),),
        (("Authorization", str(replace(RFC_2617, response="0" * 32))),),  # another realm
        (("Authorization", str(replace(RFC_2617, realm="house", algorithm="SHA-256-sess"))),),  # not offered
        (("Authorization", str(replace(RFC_2617, realm="house", qop="auth-int"))),),
        (("Proxy-Authorization", str(replace(RFC_2617, realm="house"))),),
    ):
        assert gate.check(asking(fields), PEER, 0.0) == Outcome()
    assert not gate.failures and not len(gate)


@pytest.mark.parametrize("login", [Login("alice", "Wonderland"), Login("alice", ""), Login("mallory", "wonderland")])
def test_wrong_is_wrong_whoever_it_is(login: Login) -> None:
    gate = guard()
    assert gate.check(answered(gate, 0.0, login=login), PEER, 0.0) == Outcome(failed=True)
    assert gate.failures == ({"alice": 1} if login.user == "alice" else {"": 1})


@pytest.mark.parametrize("password", ["", None])
def test_nobody_has_an_empty_password(password: str | None) -> None:
    gate = guard(users={} if password is None else {"alice": password})
    assert gate.check(answered(gate, 0.0, login=Login("alice", "")), PEER, 0.0).failed


def test_an_answer_is_for_one_method_and_one_place() -> None:
    gate = guard()
    fields = answered(gate, 0.0).headers.fields
    assert gate.check(asking(fields, "INVITE"), PEER, 0.0).failed
    assert gate.check(asking(fields, uri="sip:911@example.org"), PEER, 0.0).failed
    assert gate.check(asking(fields, uri="sip:EXAMPLE.org:5060;transport=udp"), PEER, 0.0).user == "alice"


def test_a_nonce_grows_old() -> None:
    gate = guard()
    request = answered(gate, 10.0)
    assert gate.check(request, PEER, 10.0 + NONCE_S + 0.01) == Outcome(stale=True)
    assert gate.check(request, PEER, 10.0 + NONCE_S - 0.01).user == "alice"
    ((_, again), _) = gate.challenge(PEER, 71.0, stale=True)
    assert again.endswith(", stale=true")


def test_a_nonce_is_for_one_host_and_one_key() -> None:
    gate, other = guard(), guard(key=b"other")
    assert gate.check(answered(gate, 0.0), "192.0.2.8", 0.0) == Outcome(stale=True)
    assert gate.check(answered(other, 0.0), PEER, 0.0) == Outcome(stale=True)


@pytest.mark.parametrize("nonce", ["", ".", "x.y.z", "-1.a.b", "f" * 17 + ".a.b", "0", "\u0661.a.b", "1.\udcff.b"])
def test_a_nonce_that_was_never_ours(nonce: str) -> None:
    gate = guard()
    made = answer(Challenge("house", nonce, "MD5", ("auth",)), LOGIN, "REGISTER", URI, 1, "c")
    assert gate.check(asking((("Authorization", str(made)),)), PEER, 0.0) == Outcome(stale=True)


@pytest.mark.parametrize("password", ["wonderland", "guess"])
def test_nobody_is_banned_for_what_another_says_nor_told_whether_it_is_right(password: str) -> None:
    """Source addresses of datagrams are forged easily; who forges one never hears the nonce."""
    gate = guard()
    for number in range(2 * FAILURES):
        forged = answered(gate, 0.0, source=f"198.51.100.{number}", login=Login("alice", password))
        assert gate.check(forged, PEER, 0.0) == Outcome(stale=True)
    assert not gate.banned(PEER, 0.0) and not gate.failures


def test_a_wrong_answer_to_an_old_nonce_is_wrong() -> None:
    gate = guard()
    assert gate.check(answered(gate, 0.0, login=Login("alice", "guess")), PEER, 2 * NONCE_S) == Outcome(failed=True)


def test_no_answer_counts_twice() -> None:
    gate = guard()
    request = answered(gate, 0.0)
    assert gate.check(request, PEER, 0.0).user == "alice"
    assert gate.check(request, PEER, 1.0) == Outcome(stale=True)


def test_without_a_qop_a_nonce_serves_once() -> None:
    gate = guard()
    challenge = replace(parse_challenge(gate.challenge(PEER, 0.0)[1][1]), qop=())
    for outcome in (Outcome("alice"), Outcome(stale=True)):
        made = answer(challenge, LOGIN, "REGISTER", URI, 1, "")
        assert gate.check(asking((("Authorization", str(made)),)), PEER, 0.0) == outcome


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), max_size=60))
@example([70, 7, 6, 6, 71, 8, 7, 0, 200])
def test_each_count_is_taken_once_within_the_window(counts: list[int]) -> None:
    gate = guard()
    challenge = parse_challenge(gate.challenge(PEER, 0.0)[0][1])
    seen: set[int] = set()
    for count in counts:
        made = answer(challenge, LOGIN, "REGISTER", URI, count, "c")
        taken = gate.check(asking((("Authorization", str(made)),)), PEER, 0.0).user == "alice"
        assert taken == (0 < count and count not in seen and count > max(seen, default=0) - WINDOW)
        seen |= {count} if taken else set()


def test_what_is_kept_of_nonces_is_dropped_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_NONCES", 3)
    gate = guard()
    requests = [answered(gate, 0.0) for _ in range(4)]
    assert [gate.check(request, PEER, 0.0).user for request in requests] == ["alice"] * 3 + [""]
    assert all(gate.check(request, PEER, 0.0).stale for request in requests)  # none of them counts again
    assert len(gate) == 3
    assert gate.check(answered(gate, 2 * NONCE_S), PEER, 2 * NONCE_S).user == "alice"
    assert len(gate) == 1


def test_who_fails_too_often_is_banned_for_a_while() -> None:
    gate = guard()
    wrong = Login("alice", "guess")
    for number in range(FAILURES):
        assert not gate.banned(PEER, number * 1.0)
        gate.check(answered(gate, number * 1.0, login=wrong), PEER, number * 1.0)
    at = FAILURES - 1.0
    assert gate.banned(PEER, at) and not gate.banned("192.0.2.8", at)
    assert gate.banned(PEER, at + BAN_S - 1)
    assert not gate.banned(PEER, at + BAN_S)
    assert not len(gate)
    assert gate.failures["alice"] == FAILURES


def test_who_fails_now_and_then_is_not() -> None:
    gate = guard()
    for number in range(5 * FAILURES):
        at = number * (FAILURES_S / (FAILURES - 1) + 0.1)
        gate.check(answered(gate, at, login=Login("bob", "typo")), PEER, at)
        assert not gate.banned(PEER, at)


def test_failures_are_remembered_of_so_many_sources_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_SOURCES", 5)
    gate = guard()
    for number in range(20):
        source = f"192.0.2.{number}"
        gate.check(answered(gate, 0.0, login=Login("x", "y"), source=source), source, 0.0)
    assert len(gate) == 5


@settings(deadline=None)
@given(st.text(max_size=120), st.sampled_from(["username", "realm", "nonce", "uri", "response", "nc", "cnonce", "qop"]))
def test_no_credentials_break_the_guard(text: str, name: str) -> None:
    gate = guard()
    fields = {
        **{"username": "alice", "realm": "house", "nonce": "1.a.b", "uri": URI, "response": "0" * 64},
        **{"algorithm": "SHA-256", "nc": "00000001", "cnonce": "c", "qop": "auth", name: text},
    }
    value = "Digest " + ", ".join(f'{key}="{value}"' for key, value in fields.items())
    assert gate.check(asking((("Authorization", value),)), PEER, 0.0).user == ""
