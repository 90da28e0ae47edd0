"""digest.py: the RFCs' examples, both sides against each other, and whatever else a header may hold."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.sip import digest
from signaling.sip.digest import (
    ALGORITHMS,
    MAX_REALMS,
    Authenticator,
    Challenge,
    Credentials,
    DigestError,
    Login,
    LoginRefused,
    Malformed,
    Unanswerable,
    answer,
    challenges,
    parse_challenge,
    parse_credentials,
)
from signaling.sip.message import Headers, Response

LOGIN = Login("alice", "wonderland")
URI = "sip:example.org"


def numbered() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"t{next(numbers)}"


def refusal(*fields: tuple[str, str], code: int = 401) -> Response:
    return Response(Headers(fields), b"", code, "Unauthorized")


def challenged(**changed: object) -> tuple[str, str]:
    made = replace(Challenge("house", "n1", "MD5", ("auth",)), **changed)  # type: ignore[arg-type]  # a test's own
    return ("Proxy-Authenticate" if made.proxy else "WWW-Authenticate"), str(made)


def authenticator(login: Login = LOGIN) -> Authenticator:
    return Authenticator(login, numbered())


# --- examples ------------------------------------------------------------------------------------------------------

RFC_2617 = Credentials(
    "Mufasa",
    "testrealm@host.com",
    "dcd98b7102dd2f0e8b11d0f600bfb0c093",
    "/dir/index.html",
    qop="auth",
    nc="00000001",
    cnonce="0a4f113b",
)
RFC_7616 = Credentials(
    "Mufasa",
    "http-auth@example.org",
    "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "/dir/index.html",
    qop="auth",
    nc="00000001",
    cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
)


@pytest.mark.parametrize(
    ("told", "password", "response"),
    [
        (RFC_2617, "Circle Of Life", "6629fae49393a05397450978507c4ef1"),
        (replace(RFC_2617, qop=""), "CircleOfLife", "1949323746fe6a43ef61f9606e7febea"),  # RFC 2069, by its erratum
        (RFC_7616, "Circle of Life", "8ca523f5e9506fed4657c9700eebdbec"),
        (
            replace(RFC_7616, algorithm="SHA-256"),
            "Circle of Life",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ],
    ids=["RFC 2617, 3.5", "RFC 2069, 2.4", "RFC 7616, 3.9.1, MD5", "RFC 7616, 3.9.1, SHA-256"],
)
def test_the_examples(told: Credentials, password: str, response: str) -> None:
    assert told.expected(password, "GET") == response


@pytest.mark.parametrize("name", ["MD5", "SHA-256"])
def test_a_session_hashes_its_secret_once_more(name: str) -> None:
    """RFC 7616, section 3.4.2, written out."""
    told = replace(RFC_7616, algorithm=f"{name}-sess")

    def hashed(text: str) -> str:
        return digest._HASHES[name](text.encode()).hexdigest()

    secret = hashed(f"{hashed('Mufasa:http-auth@example.org:secret')}:{told.nonce}:{told.cnonce}")
    what = hashed("GET:/dir/index.html")
    assert told.expected("secret", "GET") == hashed(f"{secret}:{told.nonce}:00000001:{told.cnonce}:auth:{what}")


def test_the_challenges_of_rfc_7616() -> None:
    """Section 3.9.1, as two header fields."""
    text = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    first, second = challenges(
        refusal(("WWW-Authenticate", text), ("WWW-Authenticate", text.replace("SHA-256", "MD5")))
    )
    assert (first.algorithm, second.algorithm) == ("SHA-256", "MD5")
    assert first.qop == ("auth", "auth-int")
    assert first.opaque == "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
    assert not first.stale


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "challenge"),
    [
        ('Digest realm="a", nonce="b"', Challenge("a", "b")),
        ('digest\tREALM = "a"  ,, nonce="b" ,'.replace("\t", " "), Challenge("a", "b")),
        ('Digest realm="a, b=\\"c\\"", nonce=""', Challenge('a, b=\\"c\\"', "")),
        ("Digest realm=a,nonce=b/c==,algorithm=sha-256,qop=auth", Challenge("a", "b/c==", "SHA-256", ("auth",))),
        ('Digest realm="a",nonce="b",algorithm="md5-SESS",stale=TRUE', Challenge("a", "b", "MD5-sess", stale=True)),
        ('Digest realm="a",nonce="b",domain="sip:x",new=thing,opaque=""', Challenge("a", "b", opaque="")),
        ('Digest realm="a",nonce="b",algorithm=AKAv1-MD5', Challenge("a", "b", "AKAv1-MD5")),
        ('Digest realm="a",nonce="b",qop=" AUTH ,,auth-int"', Challenge("a", "b", qop=("auth", "auth-int"))),
    ],
)
def test_a_challenge_is_read(text: str, challenge: Challenge) -> None:
    assert parse_challenge(text) == challenge


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "scheme"),
        ("Digest", "scheme"),
        ('Basic realm="a"', "scheme is not Digest: 'Basic realm="),
        ("NoOneKnowsThisScheme opaque-data=here", "scheme"),  # RFC 4475, section 3.3.12
        ('Digest realm="a"', "no nonce"),
        ('Digest nonce="a"', "no realm"),
        ('Digest realm="a", realm="b", nonce="c"', "realm comes twice"),
        ('Digest realm="a, nonce="b"', "no parameter"),
        ('Digest realm="a" nonce="b"', "no parameter"),
        ('Digest realm="a", Basic realm="b"', "no parameter"),
        ("Digest realm=, nonce=a", "no parameter"),
        ('Digest realm="a\\', "no parameter"),
        ('Digest realm="a\x00", nonce="b"', "realm comes"),
        (f'Digest realm="a", nonce="{"b" * 1025}"', "nonce comes twice, is one too many, or too long"),
        ("Digest realm=a, nonce=b, " + ", ".join(f"x{number}=y" for number in range(30)), "one too many"),
        (f'Digest realm="a", nonce="b", {"," * 4096}', "longer"),
    ],
)
def test_nonsense_is_named(text: str, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse_challenge(text)


@pytest.mark.parametrize(
    "change",
    [(", nc=00000001", ""), ("nc=00000001", "nc=1"), ("nc=00000001", "nc=0000000g"), ('cnonce="c"', 'cnonce=""')],
)
def test_credentials_with_a_qop_need_count_and_cnonce(change: tuple[str, str]) -> None:
    text = 'Digest username="u", realm="r", nonce="n", uri="sip:x", response="r", qop=auth, nc=00000001, cnonce="c"'
    assert parse_credentials(text).nc == "00000001"
    with pytest.raises(Malformed, match="qop=auth without"):
        parse_credentials(text.replace(*change))


safe = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"\\'), max_size=60)
word = st.text("abcXYZ019-._~+", min_size=1, max_size=20)


@settings(deadline=None)
@given(st.builds(Challenge, safe, safe, st.one_of(st.sampled_from(ALGORITHMS), word), opaque=st.none() | safe))
def test_a_challenge_says_itself_again(challenge: Challenge) -> None:
    if challenge.algorithm.lower() not in {name.lower() for name in ALGORITHMS}:
        assert not challenge.answerable
    else:
        assert parse_challenge(str(challenge)) == challenge


@settings(deadline=None)
@given(user=safe.filter(bool), realm=safe, nonce=safe, algorithm=st.sampled_from(ALGORITHMS), opaque=st.none() | safe)
def test_credentials_say_themselves_again(
    user: str, realm: str, nonce: str, algorithm: str, opaque: str | None
) -> None:
    challenge = Challenge(realm, nonce, algorithm, ("auth",), opaque)
    made = answer(challenge, Login(user, "secret"), "INVITE", "sip:x", 0xABC, "cnonce")
    read = parse_credentials(str(made))
    assert read == made
    assert read.nc == "00000abc"
    assert read.response == read.expected("secret", "INVITE") != read.expected("Secret", "INVITE")


@settings(deadline=None)
@given(st.text(max_size=200) | st.from_regex(r'Digest ([a-z]+="?[^"]*"?[, ]*){0,6}', fullmatch=True))
@example('Digest realm="' + "\\" * 200)
@example("Digest " + "a=b," * 100)
@example("Digest \ud800=\udcff")
def test_whatever_stands_there_is_read_or_malformed(text: str) -> None:
    for parse in (parse_challenge, parse_credentials):
        try:
            assert parse(text)
        except Malformed as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "Digest " + "a" * 60_000,
        "Digest " + "a=" * 30_000,
        "Digest " + 'a="' * 20_000,
        "Digest " + "a=b " * 15_000,
        "Digest " + "," * 60_000,
        "Digest" + " " * 60_000,
        'Digest a="' + "\\" * 60_000,
        "Digest " + ", ".join(f'p{number}="auth,auth-int"' for number in range(2_500)),
    ],
    ids=lambda text: str(text[:16]),
)
def test_no_header_takes_long(text: str) -> None:
    """The same again without the limit on length: the patterns themselves are linear."""
    begin = time.process_time()
    for cut in (text[: digest.MAX_HEADER], text):
        with pytest.raises(Malformed):
            parse_credentials(cut)
    at = 0
    while at < len(text) and (match := digest._PARAMETER.match(text, at + 7 * (at == 0))):
        at = match.end()
    assert time.process_time() - begin < 0.1


# --- our answers ---------------------------------------------------------------------------------------------------


def test_the_first_challenge_is_answered_that_we_know() -> None:
    ours = authenticator()
    ours.learn(
        refusal(
            ("WWW-Authenticate", 'Basic realm="house"'),
            challenged(algorithm="SHA-512-256"),
            challenged(algorithm="MD5-sess", qop=()),
            challenged(qop=("auth-int",)),
            challenged(algorithm="SHA-256", nonce="n2", opaque="o"),
            challenged(algorithm="MD5", nonce="n3"),
        )
    )
    ((name, value),) = ours.fields("REGISTER", URI)
    told = parse_credentials(value)
    assert name == "Authorization"
    assert (told.algorithm, told.nonce, told.opaque, told.uri, told.qop) == ("SHA-256", "n2", "o", URI, "auth")
    assert told.response == told.expected("wonderland", "REGISTER")


def test_without_a_qop_there_is_neither_count_nor_cnonce() -> None:
    ours = authenticator()
    ours.learn(refusal(challenged(qop=())))
    ((_, value),) = ours.fields("REGISTER", URI)
    assert "nc=" not in value and "cnonce" not in value and "qop" not in value
    assert parse_credentials(value).expected("wonderland", "REGISTER") in value


def test_a_nonce_is_used_again_with_a_higher_count_until_there_is_another() -> None:
    ours = authenticator()
    assert ours.fields("REGISTER", URI) == ()
    counts = []
    for nonce in ("n1", "n1", "n2"):
        ours.begin()
        ours.learn(refusal(challenged(nonce=nonce)))
        for _ in range(2):
            told = parse_credentials(ours.fields("REGISTER", URI)[0][1])
            counts.append((told.nonce, told.nc, told.cnonce))
    assert [(nonce, int(nc, 16)) for nonce, nc, _ in counts] == [
        *(("n1", count) for count in (1, 2, 3, 4)),
        *(("n2", count) for count in (1, 2)),
    ]
    assert len({cnonce for *_, cnonce in counts}) == 6


def test_a_proxy_and_a_registrar_may_both_ask() -> None:
    ours = authenticator()
    ours.learn(refusal(challenged(proxy=True, realm="gate"), code=407))
    ours.learn(refusal(challenged()))
    assert [name for name, _ in ours.fields("INVITE", URI)] == ["Proxy-Authorization", "Authorization"]


def test_a_login_is_refused_by_whoever_asks_twice() -> None:
    ours = authenticator()
    ours.learn(refusal(challenged()))
    with pytest.raises(LoginRefused, match="'house'"):
        ours.learn(refusal(challenged(nonce="n2")))
    assert ours.fields("REGISTER", URI) == ()  # what is wrong is not said unasked
    ours.begin()
    ours.learn(refusal(challenged(nonce="n3")))
    ours.begin()
    ours.learn(refusal(challenged(nonce="n4")))  # a nonce that was known had grown old: no refusal


def test_a_stale_nonce_is_answered_once_more() -> None:
    ours = authenticator()
    ours.learn(refusal(challenged()))
    ours.learn(refusal(challenged(nonce="n2", stale=True)))
    ours.learn(refusal(challenged(nonce="n3", stale=True)))
    with pytest.raises(LoginRefused, match="again and again"):
        ours.learn(refusal(challenged(nonce="n4", stale=True)))


def test_a_peer_with_ever_new_realms_is_given_up_and_forgotten() -> None:
    ours = authenticator()
    ours.learn(refusal(challenged(realm="1")))
    ours.learn(refusal(challenged(realm="2")))
    with pytest.raises(LoginRefused):
        ours.learn(refusal(challenged(realm="3")))
    for number in range(20):
        ours.begin()
        ours.learn(refusal(challenged(realm=str(number), nonce=str(number))))
    assert len(ours.fields("REGISTER", URI)) == MAX_REALMS


def test_a_challenge_that_nobody_can_answer() -> None:
    with pytest.raises(Unanswerable, match="algorithms offered: SHA-512-256, AKAv1-MD5"):
        authenticator().learn(refusal(challenged(algorithm="SHA-512-256"), challenged(algorithm="AKAv1-MD5")))
    with pytest.raises(Unanswerable, match="offered: none"):
        authenticator().learn(refusal(("WWW-Authenticate", "Digest x")))
    assert issubclass(Unanswerable, DigestError)


@pytest.mark.parametrize("user", ["", 'a"b', "a\\b", "a\r\nX: y"])
def test_a_user_name_that_cannot_be_said(user: str) -> None:
    with pytest.raises(ValueError, match="a user name"):
        Login(user, "secret")


def test_a_password_is_not_shown() -> None:
    assert "wonderland" not in repr(LOGIN)
