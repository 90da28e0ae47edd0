"""What the codec's judges are given: answers as a conversation would bring them, beside their targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.model.mimi import Mimi
from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.encode import code_voice
from engine.pocket.recipe.export_codec import build, encode_after_silence
from engine.pocket.recipe.formats import Clip
from engine.pocket.recipe.init_codec import draw, level_decoder, level_encoder
from engine.pocket.recipe.judge_codec import GAP_FRAMES, Said, answers_of, say_answers, snr_db
from engine.pocket.recipe.learn_quantizer import cluster
from engine.pocket.recipe.offline_codec import OfflineCodec
from tests.engine.pocket.voices import stand_in, word

NANO = {
    "seanet": {"n_filters": 2, "dimension": 32},
    "transformer": {"d_model": 32, "num_heads": 2, "num_layers": 1, "dim_feedforward": 64, "context": 250},
    "quantizer": {"input_dimension": 32, "dimension": 16, "n_q": 8, "bins": 16},
}


@pytest.fixture
def mimi() -> Mimi:
    mimi = build(NANO).requires_grad_(False)
    draw(mimi, 1)
    latent = level_encoder(mimi, torch.from_numpy(np.stack([stand_in(seed, 12) for seed in range(4)]))[:, None])
    cluster(mimi.quantizer, latent, 3, torch.Generator().manual_seed(1))
    level_decoder(mimi, mimi.quantizer.decode(mimi.quantizer.encode(latent)), 0.05)
    return mimi


def test_answers_come_from_their_clips_codes(mimi: Mimi) -> None:
    """As the decoder says the constants that the language model learns, whatever was said before."""
    clips = [Clip(name, word(vowels), ()) for name, vowels in {"yes": ["eh"], "two": ["uw", "aa"]}.items()]
    said = say_answers(mimi, code_voice(mimi, [clip.audio for clip in clips]), clips, [("two",), ("yes", "two")])
    assert [each.text for each in said] == ["two", "yes two"]
    yes, two = (encode_after_silence(mimi, [clip.audio])[0] for clip in clips)
    quiet = np.tile(code_voice(mimi, [clips[0].audio]).layout.silence, (GAP_FRAMES, 1))
    whole = torch.from_numpy(np.concatenate([quiet, two, quiet, yes, two]).T)[None]
    wanted = OfflineCodec(mimi).decode(whole)[0, 0].numpy()
    ends = len(wanted) - len(said[1].made), len(wanted)
    assert np.allclose(said[1].made, wanted[slice(*ends)], atol=1e-5)
    assert np.array_equal(said[1].target, np.concatenate([clips[0].audio, clips[1].audio]))


def test_snr_is_of_all_answers_together() -> None:
    ones = np.ones(10, np.float32)
    said = [Said("a", ones, ones), Said("b", np.float32(0.9) * ones, ones)]
    assert snr_db(said) == pytest.approx(10 * np.log10(20 / 0.1), abs=1e-3)


def test_every_answer_has_its_clips() -> None:
    domain = load_domain()
    answers = answers_of(domain)
    assert len(answers) == len(set(answers)) > 40
    assert {clip for answer in answers for clip in answer} <= {clip.id for clip in domain.clips}
