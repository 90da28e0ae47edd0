"""Training computes what serving computes: whole sequences against `Moshi.step`, a column at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.model.moshi import Moshi
from engine.model.moshi_config import UNGENERATED, ZERO, MoshiConfig
from engine.pocket.recipe import offline_lm

TOLERANCE = 1e-4

SIZES = {"num_layers": 2, "card": 32, "text_card": 40, "depformer_dim": 16, "depformer_num_layers": 2}
AGENT = MoshiConfig(dim=32, num_heads=2, context=50, depformer_num_heads=2, **SIZES)  # type: ignore[arg-type]
EAR = MoshiConfig(dim=32, num_layers=2, num_heads=2, context=50, n_q=8, dep_q=0, card=32, text_card=40, delays=(0,) * 9)
SHORT = MoshiConfig(dim=32, num_heads=2, context=7, depformer_num_heads=2, **SIZES)  # type: ignore[arg-type]


def model(config: MoshiConfig) -> Moshi:
    torch.manual_seed(1)
    moshi = Moshi(config)
    for parameter in moshi.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return moshi


def frames(config: MoshiConfig, length: int, rows: int = 2) -> Tensor:
    torch.manual_seed(2)
    text = torch.randint(config.text_card, (rows, length, 1))
    return torch.cat((text, torch.randint(config.card, (rows, length, config.n_q))), 2)


class Streamed:
    """The logits of each step, every made token forced to the frames'."""

    def __init__(self, moshi: Moshi, frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text: list[Tensor] = []
        self.codes: list[list[Tensor]] = []
        self.columns: list[Tensor] = []
        temporal, depth = moshi.temporal, moshi.depth

        def see_temporal(*args: Tensor) -> tuple[Tensor, Tensor]:
            hidden, logits = temporal(*args)  # type: ignore[arg-type]
            self.text.append(logits[:, 0])
            self.codes.append([])
            return hidden, logits

        def see_depth(*args: object) -> Tensor:
            logits = depth(*args)  # type: ignore[arg-type]
            self.codes[-1].append(logits)
            return logits

        monkeypatch.setattr(moshi, "temporal", see_temporal)
        monkeypatch.setattr(moshi, "depth", see_depth)
        self.run(moshi, frames)

    def run(self, moshi: Moshi, frames: Tensor) -> None:
        config, (rows, length, _) = moshi.config, frames.shape
        state = moshi.initial_state(rows)
        columns = torch.stack([config.columns(row) for row in frames])
        nobody = torch.full((rows, config.n_q - config.dep_q), UNGENERATED)
        for number in range(length):
            # The caller's frame n - 1 arrives with column n; column 0 is all initial.
            caller = frames[:, number - 1, config.made :] if number else nobody
            step = moshi.step(state, caller, columns[:, number + 1, : config.made], None, None)
            self.columns.append(step.column)


@pytest.mark.parametrize("short", [4, 256], ids=["torch's attention", "written out"])
@pytest.mark.parametrize("config", [AGENT, EAR, SHORT], ids=["agent", "ear", "past the window"])
def test_logits_equal_the_streamed_ones(config: MoshiConfig, short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_lm, "SHORT", short)
    moshi, given = model(config), frames(config, 12)
    streamed = Streamed(moshi, given, monkeypatch)
    columns = offline_lm.lay_out(config, given)
    assert torch.equal(columns[:, :-1], torch.stack(streamed.columns, 1))
    with torch.no_grad():
        hidden = offline_lm.temporal(moshi, columns[:, :-1])
        torch.testing.assert_close(
            moshi.text_linear(hidden), torch.stack(streamed.text, 1), atol=TOLERANCE, rtol=TOLERANCE
        )
        if not config.dep_q:
            return
        made = columns[:, 1:, : config.made].flatten(0, 1)
        logits = offline_lm.depth(moshi, hidden.flatten(0, 1), made).view(2, 12, config.dep_q, config.card)
    wanted = torch.stack([torch.stack(codes, 1) for codes in streamed.codes], 1)
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_columns_are_those_that_a_row_is_primed_with() -> None:
    given = frames(AGENT, 9)
    columns = offline_lm.lay_out(AGENT, given)
    primed = torch.stack([AGENT.columns(row) for row in given])
    assert torch.equal(columns, primed[:, : columns.shape[1]])


def test_a_masked_stream_adds_nothing() -> None:
    moshi, columns = model(AGENT), offline_lm.lay_out(AGENT, frames(AGENT, 5))
    columns[:, :, 10:] = ZERO
    with torch.no_grad():
        streamed, _ = moshi.temporal(columns[:, :1], moshi.initial_state(2).kv, torch.ones(2, dtype=torch.bool))
        hidden = offline_lm.temporal(moshi, columns)
    torch.testing.assert_close(hidden[:, :1], streamed, atol=TOLERANCE, rtol=TOLERANCE)


def test_every_parameter_gets_a_gradient() -> None:
    moshi, columns = model(AGENT), offline_lm.lay_out(AGENT, frames(AGENT, 8))
    hidden = offline_lm.temporal(moshi, columns[:, :-1])
    codes = offline_lm.depth(moshi, hidden.flatten(0, 1), columns[:, 1:, : AGENT.made].flatten(0, 1))
    torch.autograd.backward(moshi.text_linear(hidden).square().mean() + codes.square().mean())
    for name, parameter in moshi.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_leaves_out_by_chance_and_nothing_where_there_is_none() -> None:
    moshi, columns = model(AGENT), offline_lm.lay_out(AGENT, frames(AGENT, 12))
    plain = offline_lm.temporal(moshi, columns)
    assert torch.equal(plain, offline_lm.temporal(moshi, columns, 0.0))
    torch.manual_seed(3)
    one, other = (offline_lm.temporal(moshi, columns, 0.2) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(one, offline_lm.temporal(moshi, columns, 0.2))
    assert not torch.allclose(one, other, atol=0.1) and not torch.allclose(one, plain, atol=0.1)


def test_columns_may_lie_apart_and_only_how_far_counts() -> None:
    moshi, columns = model(AGENT), offline_lm.lay_out(AGENT, frames(AGENT, 12))
    places = torch.arange(columns.shape[1])[None].expand(2, -1)
    plain = offline_lm.temporal(moshi, columns)
    assert torch.equal(plain, offline_lm.temporal(moshi, columns, positions=places))
    torch.testing.assert_close(plain, offline_lm.temporal(moshi, columns, positions=places + 30), atol=1e-4, rtol=1e-4)
    gap = places + torch.tensor([[0], [20]]) * (places >= 5)
    parted = offline_lm.temporal(moshi, columns, positions=gap)
    assert torch.equal(parted[0], plain[0]) and torch.allclose(parted[1, :5], plain[1, :5], atol=1e-5)
    assert not torch.allclose(parted[1, 5:], plain[1, 5:], atol=1e-2)
