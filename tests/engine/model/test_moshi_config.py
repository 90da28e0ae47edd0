"""Sizes and arguments of the language model, and prompts laid out in columns."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from engine.model.moshi import Moshi
from engine.model.moshi_config import UNGENERATED, MoshiConfig, gated_hidden
from tests.oracle import lm_cases as cases


def count(kwargs: dict[str, Any]) -> Counter[str]:
    with torch.device("meta"):
        model = Moshi(MoshiConfig.from_kwargs(kwargs))
    parts: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        parts[name.partition(".")[0]] += weight.numel()
    return parts


STT_26B: dict[str, Any] = {
    **{"dim": 2048, "num_layers": 48, "num_heads": 32, "hidden_scale": 4.125, "context": 375, "max_period": 100000.0},
    **{"n_q": 32, "dep_q": 0, "card": 2048, "text_card": 4000, "existing_text_padding_id": 3, "delays": [0] * 33},
    **{"causal": True, "layer_scale": None, "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope"},
    **{"depformer_dim": 1024, "depformer_num_heads": 16, "depformer_num_layers": 6, "depformer_dim_feedforward": None},
    **{"depformer_multi_linear": True, "depformer_pos_emb": "none", "depformer_weights_per_step": True},
    **{"conditioners": {}, "cross_attention": False},
}
"""The language model's part of a published config.json, as it stands there."""

STT_1B = STT_26B | {"num_layers": 16, "num_heads": 16, "context": 750, "text_card": 8000}
STT_1B |= {"extra_heads_num_heads": 4, "extra_heads_dim": 6}


def test_moshi_7b_has_its_parameters() -> None:
    parts = count({})
    assert parts == {
        "transformer": 6_576_930_816,
        "out_norm": 4_096,
        "emb": 134_283_264,
        "text_emb": 131_076_096,
        "text_linear": 131_072_000,
        "depformer": 616_574_976,
        "depformer_in": 33_554_432,
        "depformer_emb": 14_687_232,
        "depformer_text_emb": 32_769_024,
        "linears": 16_777_216,
    }
    assert parts.total() == 7_687_729_152
    assert count({"dep_q": 16}) == parts  # the later half is not run


@pytest.mark.parametrize(
    ("acoustic", "synthesis", "steps"),
    [
        ([0, *[1] * 7] * 2, False, 8),  # two speakers: PersonaPlex
        ([0, *[1] * 7] * 2, True, 16),  # the same delays, but the file says that it is one
        ([0, *[2] * 15], False, 16),  # one semantic stream, and all others behind it
        ([25, *[27] * 15], False, 16),
    ],
)
def test_streams_that_are_all_made_are_one_voice_or_two_speakers(
    acoustic: list[int], synthesis: bool, steps: int
) -> None:
    config = MoshiConfig.from_kwargs({"dep_q": 16, "delays": [0, *acoustic]}, synthesis)
    assert (config.dep_q, config.n_q) == (steps, 16)


def test_speech_to_text_weights_have_their_parameters() -> None:
    assert count(STT_1B).total() == 989_253_632
    config = MoshiConfig.from_kwargs(STT_26B)
    assert (config.temporal.head_dim, config.temporal.context, config.temporal.hidden) == (64, 375, 5632)
    assert (config.dep_q, config.made, config.delay, config.max_period) == (0, 1, 0, 100_000)
    assert count(STT_26B).total() == pytest.approx(2_617e6, rel=0.001)


def test_gated_width_is_two_thirds() -> None:
    assert gated_hidden(4096, 16896) == 11264
    assert gated_hidden(1024, 4224) == 2816
    assert gated_hidden(2048, 8448) == 5632
    assert gated_hidden(64, 256) == 168  # of 4 dim the reference takes 21/8 dim


def test_a_published_configuration_is_read() -> None:
    config = MoshiConfig.from_kwargs(cases.TINY | {"fuser": {"sum": [], "cross": [], "scale": 1.0}, "conditioners": {}})
    assert (config.dim, config.depformer_hidden, config.temporal.hidden, config.delay) == (32, (44,) * 8, 88, 1)
    assert MoshiConfig.from_kwargs({}) == MoshiConfig()
    assert MoshiConfig().depformer_hidden == (2816,) * 8
    assert MoshiConfig.from_kwargs(STT_1B | {"depformer_pos_emb": "sin"}).dep_q == 0  # there is no depth to be placed


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sliding_window": 5}, "unknown argument of the language model: 'sliding_window'"),
        ({"norm": "layer_norm"}, "norm: 'layer_norm' is not supported; it must be 'rms_norm_f32'"),
        (
            {"depformer_norm": "layer_norm"},
            "depformer_norm: 'layer_norm' is not supported; it must be None or 'rms_norm",
        ),
        ({"depformer_norm": 3}, "depformer_norm: 3 is not supported"),
        ({"depformer_weights_per_step_schedule": [0, 1]}, "schedule must be 8 numbers, one a depth step"),
        ({"depformer_weights_per_step_schedule": 3}, "schedule: 3 is not a list of numbers"),
        ({"depformer_weights_per_step_schedule": [0, "1"]}, "schedule: '1' is not a size"),
        ({"depformer_dim_feedforward": [66, 66]}, "must be one size, or 8, one for each set of depth weights"),
        ({"depformer_dim_feedforward": "66"}, "depformer_dim_feedforward: '66' is not a size"),
        ({"depformer_low_rank_embeddings": 0.5}, "depformer_low_rank_embeddings: 0.5 is not a size"),
        ({"existing_text_padding_id": 7}, "existing_text_padding_id: 7 is not supported; it must be 3"),
        ({"kv_repeat": 3}, "kv_repeat 3 must divide the"),
        ({"kv_repeat": 0}, "kv_repeat 0 must divide the"),
        ({"kv_repeat": 4}, "kv_repeat 4 must divide the 2 depformer_num_heads"),
        ({"positional_embedding": "rope_concat"}, "positional_embedding: 'rope_concat' is not supported"),
        ({"demux_second_stream": True}, "demux_second_stream: True is not supported"),
        ({"cross_attention": True}, "cross_attention: True is not supported"),
        ({"quantize": True}, "unknown argument of the language model: 'quantize'"),  # how it is stored is no size
        ({"conditioners": {"speaker": {}}}, "conditioners: .* it must be None or {}"),
        ({"fuser": {"sum": ["speaker"]}}, "fuser: .* only one that fuses nothing"),
        ({"dim": "32"}, "dim: '32' is not a size"),
        ({"dim": True}, "dim: True is not a size"),
        ({"context": 2.5}, "context: 2.5 is not a size"),
        ({"delays": 1}, "delays: 1 is not a list of numbers"),
        ({"delays": [0, "1"]}, "delays: '1' is not a size"),
        ({"delays": [0, 1]}, r"delays must be 17 numbers \(text and n_q\)"),
        ({"dep_q": 17}, "dep_q must lie between 0 and n_q = 16, not 17"),
        ({"num_heads": 5}, "multiple of twice the 5 heads"),
        ({"depformer_num_heads": 3}, "must be a multiple of depformer_num_heads 3"),
        ({"depformer_num_heads": 0}, "must be a multiple of depformer_num_heads 0"),
        ({"context": 0}, "at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MoshiConfig.from_kwargs(cases.TINY | change)


def test_a_frame_that_is_not_known_is_no_prompt() -> None:
    frames = torch.zeros(3, 17, dtype=torch.int64)
    frames[1, 4] = UNGENERATED
    with pytest.raises(ValueError, match="UNGENERATED"):
        MoshiConfig.from_kwargs(cases.TINY).columns(frames)
