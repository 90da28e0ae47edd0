"""The table in README.md: every cell has tests, which are there, or a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
TEXT = (HERE / "README.md").read_text()
PEERS = ["libre", "baresip", "SIPp", "Kamailio", "rtpengine"]
FEATURES = (
    *("in", "out", "register", "TCP", "TLS", "SDES", "DTLS-SRTP", "PCMU", "PCMA", "G.722", "Opus", "DTMF in"),
    *("DTMF out", "hold", "blind transfer", "attended transfer", "session timer"),
)
LISTED = dict(re.findall(r"^- \*\*(\w+)\*\* `([^`]+)`", TEXT, re.MULTILINE))
"""Key -> file and test."""


def rows() -> Iterator[list[str]]:
    """The cells of each row, the peers' names first."""
    for line in TEXT.splitlines():
        if line.startswith("|") and not line.startswith("|-"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_it_has_every_peer_and_feature() -> None:
    (_, *peers), *features = rows()
    assert peers == PEERS
    assert [name for name, *_ in features] == list(FEATURES)


def test_every_cell_has_tests_or_a_reason() -> None:
    used = set()
    for feature, *cells in list(rows())[1:]:
        assert len(cells) == len(PEERS), feature
        for peer, cell in zip(PEERS, cells, strict=True):
            if not re.fullmatch(r"(cannot|not done): \S.+", cell):
                assert cell and all(key in LISTED for key in cell.split()), f"{feature} of {peer}: {cell!r}"
                used.update(cell.split())
    assert used == set(LISTED)


def test_every_test_is_there_and_is_run_with_its_peer() -> None:
    for key, place in LISTED.items():
        path, _, name = place.partition("::")
        tree = ast.parse((HERE / path).read_text())
        (found,) = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == name]
        marks = [ast.unparse(mark) for mark in found.decorator_list]
        marks += [
            ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign) and "peer(" in ast.unparse(node)
        ]
        assert not any("skip" in mark or "xfail" in mark for mark in marks), key
        assert any("peer" in mark for mark in marks), f"{key} {place} asks for no peer"
