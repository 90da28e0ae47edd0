"""The text head learns on over calls that the model never saw, and to begin where it missed the frame to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.text import EPAD, PAD
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.corpus import Example, example_of, read_coded
from engine.pocket.recipe.init_lm import draw
from engine.pocket.recipe.refit import LATE, NO_LABELS, States, kept_silent, main, refit, starts, states_of
from engine.pocket.recipe.train_lm import Material
from engine.pocket.recipe.training import load, store
from tests.engine.pocket.work import LM


@pytest.fixture
def material(work: Path) -> Material:
    return Material.read(work)


@pytest.fixture
def example(work: Path, material: Material) -> Example:
    return example_of(read_coded(work, "stage1")[0], material.voice, material.tokenizer, NO_LABELS)


@pytest.fixture
def moshi(material: Material) -> Moshi:
    made = Moshi(MoshiConfig.from_kwargs(LM))
    draw(made, material.mimi, 0)
    return made.requires_grad_(False)


def test_an_answer_starts_with_the_epad_behind_its_question(example: Example) -> None:
    (question, *_), *_ = example.asked
    (start,) = starts(example)
    assert example.frames[start, 0] == EPAD and example.opening[start + 1]
    assert abs(start - question) < LATE.stop and EPAD not in example.frames[question + 1 : start, 0]


def test_what_ends_too_soon_or_is_not_answered_has_no_late_start(example: Example) -> None:
    (start,) = starts(example)
    short = replace(example, frames=example.frames[: start + LATE.stop - 1])
    assert not list(starts(short)) and not list(starts(replace(example, asked=())))


def test_kept_silent_it_hears_the_same_and_says_nothing(example: Example, material: Material) -> None:
    (start,) = starts(example)
    silence = material.voice.layout.silence
    frames = kept_silent(example, start, silence)
    caller = 1 + len(silence)
    assert len(frames) == start + LATE.stop and np.array_equal(frames[:start], example.frames[:start])
    assert np.array_equal(frames[start:, caller:], example.frames[start : len(frames), caller:])
    assert (frames[start:, 0] == PAD).all() and (frames[start:, 1:caller] == silence).all()
    assert example.frames[start, 0] == EPAD  # what it was made of is as it was


def test_states_are_what_the_head_is_given_there(example: Example, material: Material, moshi: Moshi) -> None:
    (start,) = starts(example)
    silence = material.voice.layout.silence
    states = states_of(moshi, [example, example], silence)
    calls = len(example) - example.prompt
    assert len(states.hidden) == len(states.tokens) == len(states.weight) == 2 * calls
    assert torch.equal(states.tokens[:calls], torch.from_numpy(example.frames[example.prompt :, 0]))
    columns = offline_lm.lay_out(moshi.config, torch.from_numpy(kept_silent(example, start, silence))[None])
    whole = offline_lm.temporal(moshi, columns[:, :-1])[0]
    late = states.late[: len(LATE)].float()
    assert len(states.late) == 2 * len(LATE)
    assert (late - whole[start + LATE.start :]).norm() < 0.02 * late.norm()
    assert (states.weight > 0).all()


def test_calls_without_an_answered_question_are_refused(example: Example, material: Material, moshi: Moshi) -> None:
    with pytest.raises(ValueError, match="in none of these calls is a question answered"):
        states_of(moshi, [replace(example, asked=())], material.voice.layout.silence)


def test_the_head_learns_to_begin_late_and_says_all_else_as_before() -> None:
    """States that nothing disturbs: each is one of four, the last that of who missed where to begin."""
    silent, beginning, speaking, missed = torch.eye(4)
    word = max(PAD, EPAD) + 1
    hidden, tokens = (
        torch.stack((silent, beginning, speaking)).repeat(50, 1),
        torch.tensor([PAD, EPAD, word]).repeat(50),
    )
    head = nn.Linear(4, word + 1, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        for token, state in ((PAD, silent), (EPAD, beginning), (word, speaking), (PAD, missed)):
            head.weight[token] += 4 * state
    figures = refit(head, States(hidden, tokens, torch.ones(len(tokens)), missed.repeat(9, 1)), 300, rate=0.1)
    assert head(missed).argmax() == EPAD and figures["begun"] == 1
    assert torch.equal(head(hidden).argmax(1), tokens)


def test_a_work_folder_is_refitted_in_all_but_the_layers(
    work: Path, moshi: Moshi, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"lm/model\.pt is missing; engine\.pocket\.recipe\.train_lm leaves it"):
        main(["--work", str(work)])
    store(work / "lm" / "model.pt", {"sizes": LM, "weights": moshi.state_dict()})
    before = {name: weight.clone() for name, weight in moshi.state_dict().items()}
    main(["--work", str(work), "--most", "3", "--steps", "10"])
    saved = load(work / "lm" / "model.pt")
    changed = [name for name, weight in saved["weights"].items() if not torch.equal(weight, before[name])]
    assert changed == ["text_linear.weight"] and saved["sizes"] == LM
    out = capsys.readouterr().out
    assert "of them late" in out and "begun" in out
