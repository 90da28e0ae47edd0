"""granted.py: the seconds that a registrar's answer grants, whatever it looks like, and when to come again."""

from __future__ import annotations

import pytest

from signaling.sip.granted import MARGIN_S, MIN_REFRESH_S, granted_s, refresh_s
from signaling.sip.message import Headers, Response

OURS = "<sip:1000@198.51.100.1:5062>"
OTHER = "<sip:1000@203.0.113.9:5062>"


def said(*fields: tuple[str, str]) -> Response:
    return Response(Headers(fields), b"", 200, "OK")


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((), 600),
        ((("Expires", "300"),), 300),
        ((("Expires", "3600"),), 600),
        ((("Expires", "soon"),), 600),
        ((("Contact", f"{OURS};expires=120"), ("Expires", "300")), 120),
        ((("Contact", f'{OURS};q=1;EXPIRES="90"'),), 90),
        ((("Contact", f"{OURS};expires=soon"), ("Expires", "300")), 300),
        ((("Contact", f"{OTHER};expires=10, {OURS};expires=120"),), 120),
        ((("Contact", f"{OTHER};expires=10, <sip:x>;expires=50"),), 10),
        ((("Contact", f"{OURS};expires=0"),), 0),
        ((("Contact", "<sip:1000@198.51.100.1:port>;expires=70"),), 70),
    ],
)
def test_what_is_granted(fields: tuple[tuple[str, str], ...], seconds: int) -> None:
    assert granted_s(said(*fields), OURS, 600) == seconds


def test_our_contact_is_known_in_capitals_but_by_no_other_name_or_port() -> None:
    ours = "<sip:1000@House.example:5062>"
    same, others = "<sip:1000@HOUSE.example:5062>", ("<sip:2000@house.example:5062>", "<sip:1000@house.example>")
    for other in others:
        listed = said(("Contact", f"{other};expires=10, {same};expires=120"))
        assert granted_s(listed, ours, 600) == 120


@pytest.mark.parametrize("seconds", [1, 8, 40, 60, 300, 600, 86_400])
def test_a_refresh_leaves_a_margin_but_half_the_time_goes_by(seconds: int) -> None:
    for chance in (0.0, 0.5, 0.999):
        at = refresh_s(seconds, chance)
        assert at >= max(MIN_REFRESH_S, seconds / 2)
        assert at <= max(MIN_REFRESH_S, seconds / 2, seconds - MARGIN_S)
    assert refresh_s(seconds, 0.999) <= refresh_s(seconds, 0.0)


def test_a_long_time_has_a_margin_of_a_share_of_it() -> None:
    assert refresh_s(3600, 0.0) == 3600 - 360
    assert refresh_s(3600, 0.5) == 3600 - 450
