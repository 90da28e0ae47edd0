"""The language model equals the oracle's goldens (tests/oracle/make_lm.py), and its rows keep to themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensorMode

from engine.model import moshi as model_file
from engine.model.moshi import UNGENERATED, ZERO, Moshi, MoshiConfig, MoshiState, Step
from engine.model.sampling import SamplingRows, draw, row_noise
from tests.oracle import lm_cases as cases
from tests.oracle.weights import draw_all, uniform

DATA = Path(__file__).parents[2] / "data" / "oracle"
TOLERANCE = 5e-5
"""What the logits may differ from the oracle's; the goldens' tokens are further apart than that."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@cache
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(DATA / "lm.npz") as file:
        return dict(file)


def golden(case: str, name: str) -> Tensor:
    return torch.from_numpy(goldens()[f"{case}/{name}"])


def seed_of(case: str) -> int:
    return int(goldens()[f"{case}/seed"])


def build(kwargs: dict[str, Any], seed: int = 0) -> Moshi:
    """Ours with the weights that the oracle's checkpoint file would hold; depth sets beyond dep_q are left unread."""
    model = Moshi(MoshiConfig.from_kwargs(kwargs))
    steps, published = model.config.dep_q, kwargs.get("dep_q", 8)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name, shape in shapes.items():
        if name.startswith("depformer.") and "self_attn" in name:
            shape[0] = shape[0] // steps * published
    weights = draw_all(shapes, seed)
    for name, value in model.state_dict().items():
        value.copy_(torch.from_numpy(weights[name][: len(value)]))
    return model.eval()


def golden_model(case: str) -> Moshi:
    return build(cases.CONFIGS[case], seed_of(case))


def settings(rows: int, text: tuple[float, int], audio: tuple[float, int]) -> SamplingRows:
    return SamplingRows(
        torch.full((rows,), float(text[0])),
        torch.full((rows,), text[1]),
        torch.full((rows,), float(audio[0])),
        torch.full((rows,), audio[1]),
        torch.ones(rows, 9, 25),
    )


class Driver:
    """Steps a model's rows, greedily unless told otherwise, and keeps what `draw` was given."""

    def __init__(self, model: Moshi, rows: int, patch: pytest.MonkeyPatch | None = None) -> None:
        self.model, self.rows, self.state = model, rows, model.initial_state(rows)
        self.sampling: SamplingRows | None = None
        self.logits: list[Tensor] = []
        if patch:
            patch.setattr(model_file, "draw", self._draw)

    def _draw(self, logits: Tensor, rows: SamplingRows | None, stream: int) -> Tensor:
        self.logits.append(logits)
        return draw(logits, rows, stream)

    def step(
        self,
        caller: Tensor | None = None,
        forced: Tensor | None = None,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
        state: MoshiState | None = None,
    ) -> Step:
        config, rows = self.model.config, self.rows
        self.logits.clear()
        return self.model.step(
            state or self.state,
            torch.full((rows, config.n_q - config.dep_q), UNGENERATED) if caller is None else caller,
            torch.full((rows, config.made), UNGENERATED) if forced is None else forced,
            replace(self.sampling, noise=noise) if self.sampling and noise is not None else self.sampling,
            mask,
        )

    def text_logits(self) -> Tensor:
        return self.logits[0]

    def audio_logits(self) -> Tensor:  # [B, dep_q, card]
        return torch.stack(self.logits[1:], 1)


def everybody(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.bool)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


# --- the oracle ---


@pytest.mark.parametrize("case", ["greedy", "stt", "prompted"])
def test_names_and_shapes_are_those_of_the_published_files(case: str) -> None:
    published = json.loads((DATA / "lm_shapes.json").read_text())[case]
    own = {name: list(value.shape) for name, value in golden_model(case).state_dict().items()}
    if case == "prompted":  # 16 depth steps in the file, of which 8 are run
        unused = re.compile(r"(gating|linears|depformer_in)\.(8|9|1\d)\.|depformer_emb\.([789]|1\d)\.")
        published = {name: shape for name, shape in published.items() if not unused.search(name)}
        for name, shape in published.items():
            if name.startswith("depformer.") and "self_attn" in name:
                shape[0] //= 2
    assert own == published


@pytest.mark.parametrize("case", ["greedy", "sampled"])
def test_steps_equal_the_oracles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(golden_model(case), 2, monkeypatch)
    caller = torch.from_numpy(cases.caller(case, 2, cases.STEPS, seed_of(case)))
    if case == "sampled":
        text, audio = (cases.TEXT_TEMPERATURE, cases.TEXT_TOP_K), (cases.AUDIO_TEMPERATURE, cases.AUDIO_TOP_K)
        driver.sampling = settings(2, text, audio)
    emitted = []
    for number in range(cases.STEPS):
        noise = golden(case, "noise")[number] if driver.sampling else None
        emitted.append(driver.step(caller[number], noise=noise).emitted)
        close(driver.text_logits(), golden(case, "text_logits")[number])
        close(driver.audio_logits(), golden(case, "audio_logits")[number])
    assert (emitted[0] == UNGENERATED).all()
    assert torch.equal(torch.stack(emitted[1:]).short(), golden(case, "emitted"))


def test_rows_with_their_own_masks_and_resets_equal_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(golden_model("masked"), cases.MASKED_ROWS, monkeypatch)
    seed = seed_of("masked")
    caller = torch.from_numpy(cases.caller("masked", cases.MASKED_ROWS, cases.TICKS, seed))
    most = torch.zeros(cases.MASKED_ROWS, dtype=torch.int64)
    for tick, mask in enumerate(torch.from_numpy(cases.masks(seed))):
        if tick in cases.RESETS:
            driver.state.reset(torch.tensor([row in cases.RESETS[tick] for row in range(cases.MASKED_ROWS)]))
        got = driver.step(caller[tick], mask=mask)
        assert torch.equal(got.emitted.short(), golden("masked", "emitted")[tick])
        if tick % 6 == 0:
            close(driver.text_logits()[mask], golden("masked", "text_logits")[tick // 6][mask])
            close(driver.audio_logits()[mask], golden("masked", "audio_logits")[tick // 6][mask])
        most = torch.maximum(most, driver.state.kv.position)
    assert most.min() > cases.TINY["context"]


def test_speech_to_text_equals_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(golden_model("stt"), 2, monkeypatch)
    caller = torch.from_numpy(cases.caller("stt", 2, cases.STEPS, seed_of("stt")))
    for number in range(cases.STEPS):
        got = driver.step(caller[number])
        close(driver.text_logits(), golden("stt", "text_logits")[number])
        close(got.heads, golden("stt", "heads")[number])
        # No token delay: the delay of these weights lies in how they were trained. So call 0 emits already.
        assert torch.equal(got.emitted.short(), golden("stt", "emitted")[number])
    assert got.heads.shape == (2, 4, 6) and got.emitted.shape == (2, 1)


def test_a_known_history_gives_the_oracles_logits() -> None:
    """Forced tokens go into the depth steps after them, as in training."""
    model, frames = golden_model("forward"), torch.from_numpy(cases.history(seed_of("forward")))[:, 0]
    columns = model.config.columns(frames)
    state, delays = model.initial_state(1), model.config.delays
    for number in range(len(frames)):
        hidden, text_logits = model.temporal(columns[None, number : number + 1], state.kv, everybody(1))
        close(text_logits[0, 0], golden("forward", "text_logits")[number])
        memory = model.depformer.fresh(hidden)
        for step in range(8):
            logits = model.depth(step, hidden[:, 0], columns[None, number + 1, step], memory)
            frame = number - delays[1 + step]
            if frame >= 0:
                close(logits[0], golden("forward", "audio_logits")[step, frame])


def prompted_start(driver: Driver, how: str, told: Tensor) -> None:
    """Bring both rows to the step that samples the first live column."""
    config, state = driver.model.config, driver.state
    columns = torch.stack([config.columns(told[:, row]) for row in range(2)])  # [B, 1 + T + 1, K]
    if how == "stepped":
        for number in range(len(told)):
            made = columns[:, number + 1, : config.made]
            got = driver.step(told[number - 1, :, config.made :] if number else None, made)
            assert torch.equal(got.column, columns[:, number])
        driver.step(told[-1, :, config.made :], columns[:, len(told) + 1, : config.made])
        return
    bounds = {"prefilled": [0, 12], "in chunks": [0, 1, 6, 12]}[how]
    for first, last in zip(bounds, bounds[1:], strict=False):
        driver.model.prefill(state, columns[:, first : last + 1 + config.delay], everybody(2))
    driver.step()


@pytest.mark.parametrize("how", ["stepped", "prefilled", "in chunks"])
def test_a_prompt_forced_into_the_columns_equals_the_oracles(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, length = seed_of("prompted"), cases.PROMPT_FRAMES
    driver = Driver(golden_model("prompted"), 2, monkeypatch)
    assert driver.model.config.dep_q == 8  # of the file's 16
    told = torch.from_numpy(cases.prompt(2, seed))
    live = torch.from_numpy(cases.caller("prompted", 2, cases.LIVE_FRAMES, seed))
    prompted_start(driver, how, told)
    close(driver.text_logits(), golden("prompted", "text_logits")[0])
    close(driver.audio_logits()[:, 0], golden("prompted", "audio_logits")[0][:, 0])
    for number in range(length + 1, length + cases.LIVE_FRAMES):
        forced = torch.full((2, 9), UNGENERATED)
        forced[:, 0] = cases.FORCED_TEXT.get(number + 1, UNGENERATED)
        got = driver.step(live[number - length - 1], forced)
        close(driver.text_logits(), golden("prompted", "text_logits")[number - length])
        assert torch.equal(got.emitted.short(), golden("prompted", "emitted")[number - 1])
        if number == length + 1:  # the agent's acoustic codes are the prompt's still
            assert torch.equal(got.column[:, 2:9], told[-1, :, 2:9])
        close(driver.audio_logits(), golden("prompted", "audio_logits")[number - length])


# --- prefill ---


def conversation(driver: Driver, frames: int, seed: int) -> list[Step]:
    codes = torch.from_numpy(cases.tokens("talk", (frames, driver.rows, 8), 24, seed))
    return [driver.step(frame) for frame in codes]


def same_future(one: Driver, other: Driver, frames: int = 25) -> None:
    """Both answer the same caller with the same tokens, from nearly the same state."""
    for got, want in zip(conversation(one, frames, 9), conversation(other, frames, 9), strict=True):
        assert torch.equal(got.emitted, want.emitted) and torch.equal(got.column, want.column)
    torch.testing.assert_close(one.state.kv.keys, other.state.kv.keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.state.kv.values, other.state.kv.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bounds", [[0, 25], [0, 3, 13, 14, 25], [0, 0, 10, 20, 25]], ids=str)
def test_prefill_equals_stepping_beyond_the_ring(bounds: list[int]) -> None:
    """25 frames in a context of 10; a chunk may cross the ring's end, and may be empty."""
    model = build(cases.TINY, 3)
    frames = torch.from_numpy(cases.tokens("talk", (25, 17), 24, 5))
    columns = model.config.columns(frames)[None]
    parallel, stepped = Driver(model, 1), Driver(model, 1)
    for first, last in zip(bounds, bounds[1:], strict=False):
        model.prefill(parallel.state, columns[:, first : last + 2], everybody(1))
    parallel.step()
    for number in range(26):
        stepped.step(frames[None, number - 1, 9:] if number else None, columns[:, number + 1, :9])
    assert parallel.state.kv.position.tolist() == stepped.state.kv.position.tolist() == [26]
    assert torch.equal(parallel.state.ahead(), stepped.state.ahead())
    same_future(parallel, stepped)


def test_prefill_leaves_the_other_rows_alone() -> None:
    driver = Driver(build(cases.TINY), 2)
    conversation(driver, 14, 1)
    before = [tensor[1].clone() for tensor in (driver.state.kv.keys, driver.state.kv.values, driver.state.table)]
    columns = driver.model.config.columns(torch.from_numpy(cases.tokens("talk", (6, 17), 24, 2)))
    driver.model.prefill(driver.state, columns.expand(2, -1, -1), torch.tensor([True, False]))
    driver.model.prefill(driver.state.row(0), columns[None], everybody(1))
    after = (driver.state.kv.keys, driver.state.kv.values, driver.state.table)
    assert all(torch.equal(tensor[1], kept) for tensor, kept in zip(after, before, strict=True))
    assert driver.state.kv.position.tolist() == [26, 14]


def test_a_fresh_row_is_primed_by_column_zero_alone() -> None:
    model = build(cases.TINY)
    primed, plain = Driver(model, 1), Driver(model, 1)
    model.prefill(primed.state, model.config.columns(torch.zeros(0, 17, dtype=torch.int64))[None], everybody(1))
    assert primed.state.kv.position.tolist() == [0]
    assert (primed.step().emitted == UNGENERATED).all()
    plain.step(torch.full((1, 8), 7))  # what the caller says at column 0 is not heard
    same_future(primed, plain)


def test_prefill_says_how_many_columns_it_keeps() -> None:
    model = build(cases.TINY)
    with pytest.raises(ValueError, match="last 2 columns are kept for later; got 1"):
        model.prefill(model.initial_state(1), torch.zeros(1, 1, 17, dtype=torch.int64), everybody(1))


# --- rows ---


def test_a_row_in_a_batch_equals_the_row_alone() -> None:
    """Own masks, settings and noise: what a row says depends on its caller, its seed and nothing else."""
    model, rows, ticks = build(cases.TINY, 2), 3, 60
    driver = Driver(model, rows)
    driver.sampling = SamplingRows(
        torch.tensor([0.7, 0.0, 1.2]),
        torch.tensor([25, 1, 5]),
        torch.tensor([0.8, 0.0, 0.5]),
        torch.tensor([12, 1, 20]),
        torch.ones(rows, 9, 25),
    )
    masks = torch.from_numpy(uniform("rows", (ticks, rows), 1) < 0.3)
    codes = torch.from_numpy(cases.tokens("rows", (ticks, rows, 8), 24, 1))
    said: list[list[Tensor]] = [[] for _ in range(rows)]
    for tick in range(ticks):
        noise = row_noise(torch.arange(rows), driver.state.kv.position, 9, 25)
        got = driver.step(codes[tick], noise=noise, mask=masks[tick])
        assert (got.emitted[~masks[tick]] == UNGENERATED).all()
        for row in masks[tick].nonzero().flatten().tolist():
            said[row].append(got.emitted[row])
    for row in range(rows):
        alone = Driver(model, 1)
        alone.sampling = SamplingRows(
            *(getattr(driver.sampling, field.name)[row : row + 1] for field in fields(SamplingRows))
        )
        heard = codes[masks[:, row], row]
        assert len(heard) > 2 * cases.TINY["context"]
        for number, frame in enumerate(heard):
            own = row_noise(torch.tensor([row]), torch.tensor([number]), 9, 25)
            assert torch.equal(alone.step(frame[None], noise=own).emitted[0], said[row][number])


def test_no_mask_is_a_mask_of_all_and_no_sampling_a_temperature_of_zero() -> None:
    model, codes = build(cases.TINY, 2), torch.from_numpy(cases.tokens("rows", (25, 2, 8), 24, 1))
    free, told = Driver(model, 2), Driver(model, 2)
    told.sampling = settings(2, text=(0, 5), audio=(0, 5))
    for frame in codes:
        got, want = free.step(frame), told.step(frame, mask=everybody(2))
        assert torch.equal(got.emitted, want.emitted) and torch.equal(got.column, want.column)
    assert torch.equal(free.state.kv.keys, told.state.kv.keys) and torch.equal(free.state.table, told.state.table)


def test_a_masked_row_stands_still_bit_for_bit() -> None:
    driver = Driver(build(cases.TINY), 2)
    conversation(driver, 13, 1)

    def snapshot() -> list[Tensor]:
        state = driver.state
        return [tensor[1].clone() for tensor in (state.kv.keys, state.kv.values, state.kv.position, state.table)]

    before = snapshot()
    for _ in range(3):
        driver.step(torch.full((2, 8), 9), torch.full((2, 9), 3), mask=torch.tensor([True, False]))
    assert all(torch.equal(one, other) for one, other in zip(snapshot(), before, strict=True))


def test_a_reset_row_is_a_fresh_row() -> None:
    driver, fresh = Driver(build(cases.TINY), 2), Driver(build(cases.TINY), 2)
    conversation(driver, 17, 1)
    driver.state.reset(torch.tensor([False, True]))
    again, want = conversation(driver, 15, 2), conversation(fresh, 15, 2)
    assert all(torch.equal(one.emitted[1], other.emitted[1]) for one, other in zip(again, want, strict=True))
    assert driver.state.kv.position.tolist() == [32, 15]


# --- the columns ---


def test_delays_and_initial_tokens_stand_where_they_should() -> None:
    """The worked example of the reference: u0 is not heard at column 0, acoustic codes come one column later."""
    driver, initial = Driver(build(cases.TINY), 1), [40] + [24] * 16
    codes = torch.arange(8)[None]
    steps = [driver.step(codes + number) for number in range(4)]
    columns = [step.column[0].tolist() for step in steps]
    assert columns[0] == initial
    assert columns[1][2:9] == [24] * 7 and columns[1][10:] == [24] * 7
    assert columns[1][9] == 1  # semantic code of the caller's frame 1
    assert columns[2][9:] == [2, *range(2, 9)]  # of frame 2, and the acoustic ones of frame 1
    assert columns[3][9:] == [3, *range(3, 10)]
    for number in (1, 2):  # emitted: text and semantic code of this column, acoustic codes of the next
        assert steps[number].emitted[0].tolist() == columns[number][:2] + columns[number + 1][2:9]


def test_the_callers_first_frame_is_heard() -> None:
    model = build(cases.TINY)

    def talk(first: int) -> list[list[int]]:
        driver = Driver(model, 1)
        driver.step()  # column 0, while the row is primed
        steps = [driver.step(torch.full((1, 8), first)), *(driver.step(torch.full((1, 8), 3)) for _ in range(6))]
        assert steps[0].column[0, 9] == first and steps[1].column[0, 10:].tolist() == [first] * 7
        assert (steps[0].emitted >= 0).all()  # and answered at once
        return [step.emitted[0].tolist() for step in steps]

    assert talk(5) != talk(6)


def test_forced_tokens_are_taken_and_condition_the_rest() -> None:
    driver = Driver(build(cases.TINY), 2)
    driver.step(torch.zeros(2, 8, dtype=torch.int64))
    forced = torch.full((2, 9), UNGENERATED)
    forced[1, 0], forced[1, 1] = 17, 4
    driver.step(torch.zeros(2, 8, dtype=torch.int64), forced)
    got = driver.step(torch.zeros(2, 8, dtype=torch.int64))
    assert got.column[1, :2].tolist() == [17, 4]
    assert got.column[0, :2].tolist() != [17, 4]
    assert not torch.equal(got.column[0, 2:9], got.column[1, 2:9])  # acoustic codes follow the forced ones


def test_a_zero_token_is_no_input() -> None:
    model = build(cases.TINY)
    column = 1 + torch.from_numpy(cases.tokens("zero", (1, 1, 17), 23, 0))
    silent = column.clone()
    silent[..., 16] = silent[..., 0] = ZERO

    def output(column: Tensor) -> Tensor:
        return model.temporal(column, model.initial_state(1).kv, everybody(1))[0]

    before = output(silent)
    weights = dict(model.named_parameters())
    weights["emb.15.weight"][column[0, 0, 16]] = 0
    weights["text_emb.weight"][column[0, 0, 0]] = 0
    assert torch.equal(output(column), before) and torch.equal(output(silent), before)


@pytest.mark.parametrize("delays", [[0, 0, 2, 0, 2], [1, 0, 3, 0, 1], [0, 0, 0, 0, 0]], ids=str)
def test_other_delays_line_up_too(delays: list[int]) -> None:
    """Forced all along, what is emitted is the frames themselves, D steps late; prefill agrees with stepping."""
    kwargs = cases.TINY | {"n_q": 4, "dep_q": 2, "delays": delays}
    model, frames = build(kwargs, 1), torch.from_numpy(cases.tokens("frames", (20, 5), 24, 1))
    columns, most = model.config.columns(frames), max(delays)
    driver = Driver(model, 1)
    emitted = []
    for number in range(20):
        got = driver.step(frames[None, number - 1, 3:] if number else None, columns[None, number + 1, :3])
        assert torch.equal(got.column[0], columns[number])
        emitted.append(got.emitted[0])
    assert all((step == UNGENERATED).all() for step in emitted[:most])
    assert torch.equal(torch.stack(emitted[most:]), frames[: 20 - most, :3])
    prefilled = Driver(model, 1)
    model.prefill(prefilled.state, columns[None], everybody(1))
    nothing = torch.full((1, 3), UNGENERATED)
    for number in range(20, 24 + most):
        heard = frames[None, 19, 3:] if number == 20 else torch.full((1, 2), 1)
        want = driver.step(heard, columns[None, number + 1, :3] if number + 1 < len(columns) else nothing)
        got = prefilled.step(heard)
        assert torch.equal(got.column, want.column) and torch.equal(got.emitted, want.emitted)


# --- depth ---


def test_depth_starts_afresh_each_frame_and_knows_no_positions() -> None:
    model = build(cases.TINY)
    hidden = torch.from_numpy(uniform("hidden", (1, 32)))

    def frame() -> list[Tensor]:
        memory = model.depformer.fresh(hidden)
        return [model.depth(step, hidden, torch.tensor([step]), memory) for step in range(8)]

    assert all(torch.equal(one, other) for one, other in zip(frame(), frame(), strict=True))
    layer = model.depformer.get_submodule("layers.0.self_attn")
    weights = dict(layer.named_parameters())
    for step in (1, 2):  # the same weights and input in two steps give the same output: nothing tells them apart
        for weight, size in ((weights["in_proj_weight"], 48), (weights["out_proj.weight"], 16)):
            weight[step * size : (step + 1) * size] = weight[:size]
    x, memory = hidden[:, :16], torch.empty(8, 1, 6, 8)
    outs = [layer(x, step, memory) for step in range(3)]
    torch.testing.assert_close(outs[1], outs[0])
    torch.testing.assert_close(outs[2], outs[0])


def test_depth_reads_the_normed_output() -> None:
    model = build(cases.TINY)
    column = torch.from_numpy(cases.tokens("normed", (1, 1, 17), 24, 0))
    before, _ = model.temporal(column, model.initial_state(1).kv, everybody(1))
    model.out_norm.alpha.mul_(2)
    after, logits = model.temporal(column, model.initial_state(1).kv, everybody(1))
    torch.testing.assert_close(after, 2 * before)  # what `depth` is given, and the text head too
    torch.testing.assert_close(logits, model.text_linear(after))


# --- in place ---


@pytest.mark.parametrize("kwargs", [cases.TINY, cases.STT], ids=["moshi", "stt"])
def test_a_step_reads_no_value_on_the_host(kwargs: dict[str, Any]) -> None:
    """Fake tensors have no values: asking one for its value raises. So a step can be captured in a CUDA graph."""
    with FakeTensorMode():
        model = Moshi(MoshiConfig.from_kwargs(kwargs))
        driver = Driver(model, 3)
        assert driver.step().emitted.shape == (3, model.config.made)
        columns = torch.zeros(3, 9, model.config.streams, dtype=torch.int64)
        model.prefill(driver.state, columns, everybody(3))


def test_bfloat16_runs_and_stays_near() -> None:
    model = build(cases.TINY)
    column = torch.from_numpy(cases.tokens("bf16", (1, 1, 17), 24, 0))
    _, want = model.temporal(column, model.initial_state(1).kv, everybody(1))
    model.to(torch.bfloat16)
    driver = Driver(model, 1)
    assert driver.state.kv.keys.dtype is torch.bfloat16
    _, got = model.temporal(column, driver.state.kv, everybody(1))
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.float(), want, atol=0.1, rtol=0)
    conversation(driver, 12, 0)
