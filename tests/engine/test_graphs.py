"""Static steps: what plain ones give, whichever rows step, and nothing that a graph could not hold.

Capture itself needs a CUDA device; what is captured runs here as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.admission import row_counts
from engine.batch import Batch, KeyPrecision, RowStep, Stepped
from engine.graphs import StaticStep, Widths, check_equal
from engine.load import load_batch
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.rehearsal import warm_up
from engine.slot import Sampling
from tests.engine.rows import fingerprint, no_log, noise, prime, same, tensors

ROWS = 6
GREEDY = Sampling(text_temperature=0, audio_temperature=0)
SCHEDULE = [[0, 1, 2, 3, 4, 5], [1, 4], [5], [0, 2, 3], [0, 1, 2, 4, 5], [3], [2, 3], [5, 0], [1, 2, 3, 4]]


def made(folder: Path, widths: Sequence[int], kv: KeyPrecision = "full", exact: bool = False) -> Batch:
    """Six rows with an ear, open and primed; static steps of these widths. `exact`: in float64."""
    checkpoint = load_checkpoint(str(folder))
    ear = load_ear(str(folder), checkpoint)
    assert ear
    if exact:
        ear.moshi.double()
        checkpoint = replace(checkpoint, mimi=checkpoint.mimi.double(), moshi=checkpoint.moshi.double())
    batch = Batch(checkpoint, ROWS, ear, kv)
    batch.prepare(widths, graphs=False)
    for row in range(ROWS):
        batch.open(row, no_log())
        prime(batch, row, "Hi.", sampling=Sampling(seed=row))
    return batch


def live(batch: Batch, ticks: Sequence[Sequence[int]] = SCHEDULE) -> list[list[Stepped]]:
    """Row 2 is greedy, row 3 is made to say something."""
    speech = [noise(len(SCHEDULE), seed=row) for row in range(ROWS)]
    return [
        batch.step(
            [
                RowStep(row, speech[row][tick], 300 if row == 3 else None, GREEDY if row == 2 else Sampling(seed=row))
                for row in rows
            ]
        )
        for tick, rows in enumerate(ticks)
    ]


@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("widths", [row_counts(ROWS), [ROWS]], ids=str)
def test_static_steps_give_what_plain_ones_give(eared: Path, kv: KeyPrecision, widths: list[int]) -> None:
    """Tokens equal, also the ear's; what the rows remember to 1e-6, the width of a product apart."""
    plain, static = made(eared, [], kv, exact=True), made(eared, widths, kv, exact=True)
    for want, got in zip(live(plain), live(static), strict=True):
        assert same(got, want)
        assert [(one.text, one.heard, one.number, one.broken) for one in got] == [
            (one.text, one.heard, one.number, one.broken) for one in want
        ]
    for state in ("_codec", "_state"):
        for mine, yours in zip(tensors(getattr(static, state)), tensors(getattr(plain, state)), strict=True):
            whole = mine.dtype == torch.int8  # where a rounding may fall to the other side
            torch.testing.assert_close(mine, yours, atol=1 if whole else 1e-6, rtol=0)


def test_rows_that_only_fill_a_width_stand_still_bit_for_bit(eared: Path) -> None:
    batch = made(eared, [ROWS])
    live(batch, SCHEDULE[:2])
    before = [fingerprint(batch, row) for row in range(ROWS)]
    live(batch, [[4, 1]])
    after = [fingerprint(batch, row) for row in range(ROWS)]
    assert [row for row in range(ROWS) if before[row] != after[row]] == [1, 4]


def test_in_one_width_a_row_is_the_same_to_the_last_bit_whoever_else_steps(eared: Path) -> None:
    alone, beside = made(eared, [ROWS]), made(eared, [ROWS])
    for tick, others in enumerate(SCHEDULE):
        (one,) = live(alone, [*[[]] * tick, [1]])[-1]
        rows = [1, *(row for row in others if row != 1)]
        other = live(beside, [*[[]] * tick, rows])[-1][0]
        assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.frame, other.frame)
    assert fingerprint(alone, 1) == fingerprint(beside, 1)


class NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """What the host would have to wait for fails: the value of a tensor, or a size that depends on one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(part in name for part in ("_local_scalar_dense", "nonzero", "unique", "masked_select", "item"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kv", ["full", "int8"])
def test_nothing_in_a_static_step_asks_the_host_or_moves_what_it_writes_to(eared: Path, kv: KeyPrecision) -> None:
    """Else it could not be captured; and a replay writes where the capture did."""
    batch = made(eared, [4], kv)
    live(batch, [[0, 1, 2]])
    static = batch._widths.of(3)
    assert static is not None

    def places() -> list[int]:
        held: list[Tensor] = [*tensors(batch._codec), *tensors(batch._state), *static._in.there, *static._out.there]
        return [tensor.data_ptr() for tensor in held]

    before = places()
    with NoSync():  # type: ignore[no-untyped-call]
        static.step()
    live(batch, [[0, 1, 2]])
    assert places() == before
    with torch.inference_mode(), NoSync(), pytest.raises(AssertionError):  # type: ignore[no-untyped-call]
        torch.ones(1).item()


def test_one_copy_goes_in_and_one_comes_out_of_rows_and_of_ears(eared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, copied = made(eared, [4]), []
    assert batch._ears is not None
    statics = [batch._widths.of(2), batch._ears._widths.of(2)]
    for static in statics:
        monkeypatch.setattr(static, "step", lambda: None)
    copy = Tensor.copy_

    def counted(to: Tensor, source: Tensor, **options: Any) -> Tensor:
        copied.append((to.data_ptr(), source.data_ptr()))
        return copy(to, source, **options)

    monkeypatch.setattr(Tensor, "copy_", counted)
    live(batch, [[0, 3]])
    held = [each for static in statics if static for each in (static._in, static._out)]
    ways = [(buffers.device.data_ptr(), buffers.host.data_ptr()) for buffers in held]
    assert copied == [ways[0], ways[1][::-1], ways[2], ways[3][::-1]]


def test_the_narrowest_width_that_holds_the_rows_is_used(eared: Path) -> None:
    batch = made(eared, row_counts(ROWS))
    chosen = [batch._widths.of(rows) for rows in (1, 2, 3, 4, 5, 6, 7)]
    assert [static and static.width for static in chosen] == [1, 2, 4, 4, 6, 6, None]


def test_a_graph_that_differs_or_cannot_be_is_not_used(eared: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line says so; the plain step stands in, and the calls hear nothing of it."""
    batch = made(eared, [])

    def static(width: int, wrong: str) -> StaticStep:
        def body(*arguments: Any) -> tuple[Tensor, Tensor]:
            said, columns = batch._body(*arguments)
            return (said + 0.01, columns) if wrong == "samples" else (said, columns + (wrong == "tokens"))

        return StaticStep(width, ROWS, 9, 17, torch.device("cpu"), body)

    batch._widths = Widths([static(1, "samples"), static(2, "tokens"), static(4, "")])

    def fail(step: StaticStep) -> None:
        if step.width == 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    batch._widths.keep(fail)
    batch._widths.keep(batch._compare)
    assert [step.width for step in batch._widths._steps] == [4]
    assert [record.getMessage() for record in caplog.records] == [
        "x steps of up to 1 rows run without a graph: operation not permitted when stream is capturing",
        "x steps of up to 2 rows run without a graph: it makes other tokens in 2 of 2 rows",
    ]
    with pytest.raises(ValueError, match=r"its samples differ by up to 0\.01"):
        batch._compare(static(1, "samples"))


def test_samples_that_are_no_numbers_differ() -> None:
    whole = np.zeros((1, 2), np.float32), np.zeros((1, 3), np.int64)
    check_equal(whole, whole)
    with pytest.raises(ValueError, match="its samples differ by up to nan"):
        check_equal(whole, (np.full((1, 2), np.nan, np.float32), whole[1]))


def test_the_setting_makes_widths(nano: Path) -> None:
    def widths(**options: Any) -> list[int]:
        return [step.width for step in load_batch(str(nano), 3, "cpu", "auto", **options)._widths._steps]

    assert (widths(), widths(graphs="off"), widths(graphs="on")) == ([], [], [1, 2, 3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_give_what_plain_ones_give(eared: Path) -> None:
    """On a card: every width is captured, found equal, and lives through the schedule as the plain step does."""
    checkpoint = load_checkpoint(str(eared), "cuda", torch.float32)
    lived = []
    for widths in ([], row_counts(ROWS)):
        batch = Batch(checkpoint, ROWS, load_ear(str(eared), checkpoint, "cuda"))
        warm_up(batch)
        batch.prepare(widths, graphs=True)
        assert [step.width for step in batch._widths._steps] == widths
        for row in range(ROWS):
            batch.open(row, no_log())
            prime(batch, row, "Hi.", sampling=Sampling(seed=row))
        lived.append(live(batch))
    assert all(same(got, want) for want, got in zip(*lived, strict=True))
