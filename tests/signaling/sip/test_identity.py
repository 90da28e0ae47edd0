"""identity.py: what is kept of what a caller says of itself."""

from __future__ import annotations

import pytest

from signaling.sip.identity import SHOWN, claims
from signaling.sip.message import Headers, Request


def said(*fields: tuple[str, str]) -> dict[str, str]:
    return claims(Request(Headers(fields), b"", "INVITE", "sip:agent@example.org"))


def test_only_what_is_there_and_known() -> None:
    assert said(("Call-ID", "1@h"), ("p-asserted-identity", "<sip:a@b>"), ("X-Secret", "no"), ("Subject", "")) == {
        **{"Call-ID": "1@h", "P-Asserted-Identity": "<sip:a@b>"}
    }


def test_all_of_one_name_in_order() -> None:
    first, second = "<sip:1@a>;reason=no-answer", "<sip:2@b>;reason=unconditional"
    assert said(("Diversion", first), ("Subject", "x"), ("Diversion", second))["Diversion"] == f"{first}, {second}"


def test_what_would_spoil_a_log_or_a_page_is_gone() -> None:
    text = said(("Remote-Party-ID", '"A\x00\x1b[31m\u202eli\u200bce\udcff\x7f" <sip:a@b>'))["Remote-Party-ID"]
    assert text == '"A[31mlice" <sip:a@b>'


@pytest.mark.parametrize(("name", "limit"), SHOWN.items())
def test_nothing_is_longer_than_it_may_be(name: str, limit: int) -> None:
    assert len(said((name, "x" * 4_000), (name, "y" * 4_000))[name]) == limit


def test_nothing_of_a_field_that_is_only_noise() -> None:
    assert said(("Subject", "\x00\u202e")) == {}
