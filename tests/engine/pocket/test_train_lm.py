"""Training reads the very columns that the engine's rows read, spoils what it may, learns, and goes on in slices."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.batch import Batch as EngineBatch
from engine.batch import RowStep
from engine.model.checkpoint import Checkpoint
from engine.model.moshi import Moshi, Step
from engine.model.moshi_config import ZERO, MoshiConfig
from engine.model.text import EPAD, PAD
from engine.pocket.recipe import batches as batches_module
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe import stops as stops_module
from engine.pocket.recipe import train_lm as train_lm_module
from engine.pocket.recipe.batches import (
    EPAD_WEIGHT,
    LATE_WEIGHT,
    NEAR,
    NEAR_SHARE,
    OPENING_WEIGHT,
    PAD_WEIGHT,
    START_WEIGHT,
    STOP_WEIGHT,
    apart,
    assemble,
    neighbours,
    spoil,
)
from engine.pocket.recipe.corpus import IGNORED, Labels
from engine.pocket.recipe.dialogues import GREETING
from engine.pocket.recipe.domain import DIGITS, load_domain
from engine.pocket.recipe.formats import SILENCE, Event, read_dialogues, shards, write_dialogues
from engine.pocket.recipe.init_lm import CODE_SIZE, centroids, draw
from engine.pocket.recipe.told import told_by
from engine.pocket.recipe.train_lm import NUMBERS_OFTEN, OFTEN, LmTask, Material, Retold, how_often, lm_task, train_lm
from engine.pocket.recipe.training import Plan, load, train
from engine.slot import FRAME_SAMPLES, Sampling
from tests.engine.pocket.work import LM, PROMPT

PLAN = Plan(60, 5e-3, warm_up=5)
BUDGET = 300


@pytest.fixture
def task(work: Path) -> LmTask:
    return lm_task(work, LM, PLAN, BUDGET)


class Serving:
    """A row of the engine, and every column that its model was fed."""

    def __init__(self, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.material = Material.read(work)
        moshi = Moshi(MoshiConfig.from_kwargs(LM)).requires_grad_(False)
        draw(moshi, self.material.mimi, 0)
        self.config, self.fed = moshi.config, list[NDArray[np.int64]]()
        parts = (self.material.mimi, moshi, self.material.tokenizer, self.material.voice.layout)
        self.batch = EngineBatch(Checkpoint(*parts, {}, "made", Sampling()), 1)
        step, prefill = moshi.step, moshi.prefill

        def see_step(*args: Tensor) -> Step:
            made = step(*args)  # type: ignore[arg-type]
            self.fed.append(made.column[0].numpy().copy())
            return made

        def see_prefill(state: object, columns: Tensor, mask: Tensor) -> None:
            self.fed.extend(columns[0, : columns.shape[1] - 1 - self.config.delay].numpy().copy())
            prefill(state, columns, mask)  # type: ignore[arg-type]

        monkeypatch.setattr(moshi, "step", see_step)
        monkeypatch.setattr(moshi, "prefill", see_prefill)

    def prime(self, log: NDArray[np.uint16], keep: int) -> None:
        self.fed.clear()
        self.batch.open(0, log)
        frames = self.batch.layout.frames(self.batch.tokenizer, PROMPT)
        for chunk in self.batch.plan(0, frames, keep, Sampling(seed=3)):
            self.batch.prefill(chunk)

    def live(self, frames: int, seed: int) -> NDArray[np.uint16]:
        """Talk at random; the log."""
        noise = np.random.default_rng(seed).normal(0, 0.1, (frames, FRAME_SAMPLES)).astype(np.float32)
        return np.stack([self.batch.step([RowStep(0, frame, None, Sampling(seed=3))])[0].tokens for frame in noise])

    def learnt(self, log: NDArray[np.uint16], begun: NDArray[np.int64], first: int = 0) -> NDArray[np.int64]:
        """The columns that training makes of the call from frame `first` on. `begun`: what was made before its log."""
        made = self.config.made
        columns = np.concatenate((begun[None, :made], log[:, :made].astype(np.int64)))  # what each column holds
        frames = np.zeros((len(log), self.config.streams), np.int64)
        for stream, delay in enumerate(self.config.delays):
            if stream >= made:
                frames[:, stream] = log[:, stream]
            else:  # of the last frame what lags behind is not made yet, and not read
                frames[: len(log) + 1 - delay, stream] = columns[delay : len(log) + delay, stream]
        prompt = self.material.voice.layout.frames(self.material.tokenizer, PROMPT)
        whole = np.concatenate((prompt, frames[first:]))
        return offline_lm.lay_out(self.config, torch.from_numpy(whole)[None])[0].numpy()


def test_a_live_row_reads_what_training_reads(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving(work, monkeypatch)
    serving.prime(np.zeros((0, 17), np.uint16), 0)
    primed = len(serving.fed)
    log = serving.live(20, seed=1)
    assert np.array_equal(np.stack(serving.fed), serving.learnt(log, serving.fed[primed])[: len(serving.fed)])
    assert serving.fed[primed][0] == PAD  # the first live column is made without a word


def test_a_row_rebuilt_with_its_last_columns_reads_a_cut_call(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving(work, monkeypatch)
    serving.prime(np.zeros((0, 17), np.uint16), 0)
    primed = len(serving.fed)
    log = serving.live(30, seed=2)
    begun = serving.fed[primed]
    serving.prime(log, 12)
    more = np.concatenate((log, serving.live(5, seed=4)))
    learnt = serving.learnt(more, begun, first=len(log) - 12)
    prompt = primed - 1
    # The step that ends the prompt drew a column of its own, which the kept columns then replaced.
    fed = np.stack(serving.fed[:prompt] + serving.fed[prompt : prompt + 1] + serving.fed[primed:])
    assert np.array_equal(fed, learnt[: len(fed)])


def test_spoiling_leaves_prompt_and_agent_alone(task: LmTask) -> None:
    example, config = task.windows[0], task.moshi.config
    for seed in range(20):
        spoilt = spoil(example, config, np.random.default_rng(seed))
        assert np.array_equal(spoilt[:, : config.made], example.frames[:, : config.made])
        assert np.array_equal(spoilt[: example.prompt], example.frames[: example.prompt])
        caller = spoilt[example.prompt :, config.made :]
        assert ((caller >= 0) & (caller < config.card) | (caller == ZERO)).all()
        assert 0 < (caller != example.frames[example.prompt :, config.made :]).mean() < 1


def test_what_another_voice_might_say_sounds_alike(work: Path, task: LmTask, monkeypatch: pytest.MonkeyPatch) -> None:
    mimi, config = Material.read(work).mimi, task.moshi.config
    near, books = neighbours(mimi), centroids(mimi)
    assert near.shape == (8, config.card, NEAR)
    apart = torch.cdist(books[2], books[2])[5]
    assert apart[near[2, 5]].max() <= apart.sort().values[NEAR]
    assert (near != np.arange(config.card)[None, :, None]).all()
    monkeypatch.setattr(batches_module, "CODE_NOISE", 0.0)
    monkeypatch.setattr(batches_module, "DEAF_SHARE", 0.0)
    monkeypatch.setattr(batches_module, "DEAF_SPANS", 0.0)
    example, changed = task.windows[0], 0.0
    for seed in range(20):
        spoilt = spoil(example, config, np.random.default_rng(seed), near)
        before, after = (each[example.prompt :, config.made :] for each in (example.frames, spoilt))
        for frame, book in np.argwhere(before != after).tolist():
            assert after[frame, book] in near[book, before[frame, book]]
        changed += (before != after).mean() / 20
        assert np.array_equal(spoilt[:, : config.made], example.frames[:, : config.made])
    assert NEAR_SHARE / 2 < changed < NEAR_SHARE * 1.5


def test_an_opening_whose_epad_was_missed_weighs_less(task: LmTask, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = assemble(task.windows[:4], task.moshi.config, task.labels, None, torch.device("cpu"))
    weights: list[Tensor] = []
    text_loss = task._text_loss

    def see(logits: Tensor, tokens: Tensor, weight: Tensor, opening: Tensor) -> tuple[Tensor, dict[str, float]]:
        weights.append(weight)
        return text_loss(logits, tokens, weight, opening)

    monkeypatch.setattr(task, "_text_loss", see)
    for share in (0.0, 1.0):
        monkeypatch.setattr(train_lm_module, "MISSED_SHARE", share)
        task.measure(batch, np.random.default_rng(0))
    assert torch.equal(weights[0], batch.weight)
    assert weights[1][batch.opening].tolist() == pytest.approx([LATE_WEIGHT] * 4)
    assert torch.equal(weights[1][~batch.opening], batch.weight[~batch.opening])


def test_windows_in_which_nobody_asks_come_without_a_prompt_and_those_of_strangers_as_any(
    work: Path, tmp_path: Path
) -> None:
    for name in ("codec", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    (tmp_path / "coded").mkdir()
    for path in (work / "coded").iterdir():
        (tmp_path / "coded" / path.name).symlink_to(path)
    plain = len(lm_task(work, LM, PLAN, BUDGET).windows)
    (some,) = shards(work / "coded", "probe")
    for kind in ("strays", "asides"):
        (tmp_path / "coded" / f"{kind}-00000.npz").symlink_to(some)
    windows = lm_task(tmp_path, LM, PLAN, BUDGET).windows
    assert len(windows) == plain + (OFTEN["strays"] + OFTEN["asides"]) * 4
    assert {example.prompt for example in windows[-4 * OFTEN["asides"] :]} == {GREETING}


def test_numbers_of_every_length_are_drawn_at_least_a_third_as_often_as_of_any_other() -> None:
    """Of those that are told, seven have three digits where one has two (`domain.DIGITS`)."""
    drawn = {
        digits: share * how_often(Event("question", 9, intent="tell_number", slot=" ".join(["one"] * digits)))
        for digits, share in DIGITS
    }
    assert drawn.keys() == NUMBERS_OFTEN.keys()
    assert max(drawn.values()) / min(drawn.values()) < 3.01
    assert how_often(Event("question", 9, intent="tell_name", slot="Maria")) == OFTEN["tell_name"]
    assert how_often(Event("question", 9, intent="hours")) == how_often(Event("noise", 9)) == 1


def test_nothing_is_asked_of_prompt_and_padding(task: LmTask) -> None:
    short, long = task.windows[0], task.calls[1]
    grown: dict[str, Any] = {
        name: np.concatenate((part := getattr(long, name), part[-5:])) for name in ("frames", "edges", "opening")
    }
    longer = replace(long, **grown)
    batch = assemble([short, longer], task.moshi.config, task.labels, None, torch.device("cpu"))
    assert batch.columns.shape == (2, 1 + len(longer), 17)
    assert not batch.weight[0, : short.prompt].any() and not batch.weight[0, len(short) :].any()
    assert not batch.live[0, : short.prompt].any() and not batch.live[0, len(short) :].any()
    tokens = batch.columns[0, 1 : 1 + len(short), 0]
    weight = batch.weight[0, : len(short)]
    live = batch.live[0, : len(short)]
    assert torch.allclose(weight[live & (tokens == PAD)], torch.tensor(PAD_WEIGHT))
    (start, *others) = weight[live & (tokens == EPAD)].tolist()
    assert start == pytest.approx(START_WEIGHT) and others == pytest.approx([EPAD_WEIGHT] * len(others))
    assert weight[batch.opening[0, : len(short)]].tolist() == [OPENING_WEIGHT]
    assert batch.asked[:, 0].tolist() == [0, 1]


def test_stopping_weighs_as_much_as_going_on_and_of_what_is_unasked_nothing_counts(task: LmTask) -> None:
    example = task.windows[0]
    silent = [frame for frame in range(example.prompt, len(example)) if example.frames[frame, 0] == PAD]
    speaking = next(frame for frame in range(len(example)) if example.frames[frame, 0] not in (PAD, EPAD))
    unasked = int(np.flatnonzero(example.opening)[0])
    changed = replace(example, stopped=(silent[0], speaking), unasked=(unasked, silent[1]))
    plain, batch = (
        assemble([each], task.moshi.config, task.labels, None, torch.device("cpu")) for each in (example, changed)
    )
    weight = plain.weight.clone()
    weight[0, silent[0]], weight[0, [unasked, silent[1]]] = STOP_WEIGHT, 0
    assert torch.equal(batch.weight, weight)
    for name in ("opening", "live", "edges"):
        before, after = getattr(plain, name)[0].clone(), getattr(batch, name)[0]
        before[[unasked, silent[1]]] &= name == "opening"
        assert torch.equal(after, before)


def test_calls_go_on_beyond_some_of_their_stops(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("codec", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    (tmp_path / "coded").mkdir()
    for path in (work / "coded").iterdir():
        (tmp_path / "coded" / path.name).symlink_to(path)
    (some,) = shards(work / "coded", "probe")
    (first, *others) = read_dialogues(some)
    end = int(np.flatnonzero(first.schedule[:, 0] != SILENCE)[0]) + 4
    first.schedule[end:], first.text[end:] = SILENCE, PAD
    talked_into = replace(first, events=(*first.events, Event("stop", end, end - 3)))
    write_dialogues(tmp_path / "coded" / "asides-00000.npz", [talked_into, *others])
    monkeypatch.setattr(stops_module, "LATE_SHARE", 1.0)
    windows = lm_task(tmp_path, LM, PLAN, BUDGET).windows
    asides = windows[-OFTEN["asides"] * (len(others) + OFTEN["talked_into"]) :]
    late = [each.unasked for each in asides if each.unasked]
    assert len(late) == OFTEN["asides"] * OFTEN["talked_into"]
    assert {frames[0] for frames in late} == {end} and len(set(late)) > 1


def test_the_agents_own_codes_are_spoilt_where_they_are_read_only(task: LmTask) -> None:
    batch = assemble(task.windows[:4], task.moshi.config, task.labels, None, torch.device("cpu"))
    before = batch.columns.clone()
    spoilt = task._own_noise(batch.columns, np.random.default_rng(0))
    changed = spoilt != batch.columns
    assert 0.005 < changed[:, :, 1:9].float().mean() < 0.04
    assert not changed[:, :, 9:].any() and not changed[:, 0].any()
    missed = changed[:, :, 0]
    assert 0 < missed.sum() < (batch.columns[:, :, 0] == EPAD).sum()
    assert (batch.columns[:, :, 0][missed] == EPAD).all() and (spoilt[:, :, 0][missed] == PAD).all()
    assert torch.equal(batch.columns, before)


def test_embeddings_begin_as_the_codecs_centroids(work: Path) -> None:
    material = Material.read(work)
    moshi = Moshi(MoshiConfig.from_kwargs(LM))
    draw(moshi, material.mimi, 0)
    sounds = centroids(material.mimi)
    for stream in (0, 1, 8, 9):  # nothing is left over for the later ones here
        table = moshi.emb[stream].weight
        assert isinstance(table, Tensor)
        near, far = (torch.cdist(each, each).flatten() for each in (table[:-1], sounds[stream % 8]))
        assert torch.corrcoef(torch.stack((near, far)))[0, 1] > 0.8
        # As large against the semantic codebook's as they are in the codec.
        assert abs(table[:-1].std() / CODE_SIZE - sounds[stream % 8].std() / sounds[0].std()) < 0.2


def test_it_learns_to_tell_what_was_asked(task: LmTask, tmp_path: Path) -> None:
    before = task.hold()
    assert train(task, PLAN, tmp_path / "lm.pt", minutes=5)
    after = task.hold()
    curve = load(tmp_path / "lm.pt")["curve"]
    assert before["held_opening"] < 0.5
    assert after["held_opening"] > 0.7 and after["held_intent"] > 0.7
    assert curve[-1]["text"] < 2.5 and curve[-1]["code"] > 0.5


def test_slices_give_the_same_weights(work: Path, tmp_path: Path) -> None:
    plan = Plan(6, 1e-3, warm_up=2)
    whole = lm_task(work, LM, plan, BUDGET)
    train(whole, plan, tmp_path / "whole.pt", minutes=5)
    for done in (False, True):
        part = lm_task(work, LM, plan, BUDGET)
        # The clock moves a minute each time it is looked at: three steps in the first slice.
        clock = partial(next, count(0.0, 60.0))
        finished = train(part, plan, tmp_path / "part.pt", minutes=8, clock=clock)
        assert finished == done
    for name, weight in whole.moshi.state_dict().items():
        assert torch.equal(weight, part.moshi.state_dict()[name]), name


def test_a_new_plan_begins_with_the_old_weights(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "coded", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    train_lm(tmp_path, LM, Plan(4, 1e-3), minutes=5, budget=BUDGET)
    before = load(tmp_path / "lm" / "model.pt")["weights"]
    assert train_lm(tmp_path, LM, Plan(1, 0.0), minutes=5, budget=BUDGET, again=True)
    after = load(tmp_path / "lm" / "model.pt")["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load(tmp_path / "lm" / "lm.pt")["step"] == 1


def test_a_new_plan_that_is_stopped_at_once_has_lost_nothing(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "coded", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    with pytest.raises(ValueError, match=r"no .*lm\.pt to begin again from"):
        train_lm(tmp_path, LM, Plan(1, 1e-3), minutes=5, budget=BUDGET, again=True)
    train_lm(tmp_path, LM, Plan(2, 1e-3), minutes=5, budget=BUDGET)
    before = load(tmp_path / "lm" / "model.pt")["weights"]
    with patch("engine.pocket.recipe.training._step", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        train_lm(tmp_path, LM, Plan(3, 1e-3), minutes=5, budget=BUDGET, again=True)
    assert not train_lm(tmp_path, LM, Plan(3, 1e-3), minutes=0, budget=BUDGET)
    after = load(tmp_path / "lm" / "model.pt")["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_heads_go_on_with_what_they_told_apart_before(task: LmTask) -> None:
    first, second, *_ = task.labels.words
    saved = deepcopy(task.save())
    saved["labels"] = Labels(("elsewhere",), (second, "another"))
    saved["moshi"] = {name: torch.zeros_like(value) for name, value in saved["moshi"].items()}
    saved["heads"] = {name: torch.full_like(value, 7) for name, value in saved["heads"].items()}
    before = deepcopy(task.heads.state_dict())
    task.restore(saved)
    assert not any(value.any() for value in task.moshi.state_dict().values())
    after = task.heads.state_dict()
    assert torch.equal(after["intent.weight"], before["intent.weight"])
    for name in ("words.weight", "words.bias", "heard.weight", "heard.bias"):
        assert (after[name][1] == 7).all()
        assert torch.equal(after[name][0], before[name][0]) and torch.equal(after[name][2:], before[name][2:])


def test_heads_are_asked_at_any_time_what_is_known(task: LmTask) -> None:
    domain = load_domain()
    greeted = task.calls[0]
    assert greeted.told == ((greeted.prompt, told_by(PROMPT, domain)),) and any(greeted.told[0][1])
    half = (greeted.prompt + len(greeted)) // 2
    known = (*greeted.told[0][1][:3], 2, 5, 1, 3, 0)
    told = replace(greeted, told=(*greeted.told, (half, known)))
    batch = assemble([told, replace(greeted, told=())], task.moshi.config, task.labels, None, torch.device("cpu"))
    assert (batch.told[1] == IGNORED).all() and (batch.told[0, : greeted.prompt] == IGNORED).all()
    assert (batch.told[0, half:] == torch.tensor(known)).all()
    random = np.random.default_rng(0)
    # A state that lights up the unit that each head reads its label from is right at any frame.
    labels = sum(head.out_features for head in task.heads.told if isinstance(head, nn.Linear))
    hidden, first = torch.zeros(2, len(greeted), max(labels, task.moshi.config.dim)), 0
    for place, head in enumerate(task.heads.told):
        assert isinstance(head, nn.Linear)
        units = torch.arange(head.out_features)
        weight = torch.zeros(head.out_features, hidden.shape[2])
        weight[units, first + units] = 20.0
        head.weight, head.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(head.out_features))
        for frame in range(greeted.prompt, len(greeted)):
            hidden[0, frame, first + int(batch.told[0, frame, place])] = 1.0
        first += head.out_features
    loss, figures = task.heads.told_loss(hidden, batch, random)
    assert figures == {"told": 1.0} and loss.item() < 1e-3
    loss, figures = task.heads.told_loss(-hidden, batch, random)
    assert figures == {"told": 0.0} and loss.item() > 10
    nobody = assemble([replace(greeted, told=())], task.moshi.config, task.labels, None, torch.device("cpu"))
    assert task.heads.told_loss(hidden[:1], nobody, random)[1] == {}


def test_some_steps_ask_only_what_prompts_told(task: LmTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_lm_module, "RECITED", 1.0)
    told = replace(task.calls[0], told=((task.calls[0].prompt, (1, 2, 3, 4, 5, 6, 7, 8)),))
    retold = Retold(lambda random: task.calls[0], lambda random: told)
    task = LmTask(task.moshi, task.labels, task.windows, task.calls, task.part, [], PLAN, BUDGET, retold, told=[9] * 8)
    random = np.random.default_rng(0)
    loss, figures = task.loss(0, random)
    assert figures.keys() == {"told"}
    torch.autograd.backward(loss)
    moved = {name for name, weight in task.moshi.named_parameters() if weight.grad is not None}
    assert any(name.startswith("transformer.") for name in moved) and not any(name.startswith("dep") for name in moved)
    monkeypatch.setattr(train_lm_module, "RECITED", 0.0)
    assert "text" in task.loss(0, random)[1]


def test_a_call_lies_apart_from_its_prompt_as_if_much_had_been_said(task: LmTask) -> None:
    batch = assemble([task.calls[0], task.windows[0]], task.moshi.config, task.labels, None, torch.device("cpu"))
    gaps: set[int] = set()
    for seed in range(30):
        places = apart(batch, 9, np.random.default_rng(seed))
        assert places.shape == batch.live.shape
        for row, prompt in enumerate(batch.prompts.tolist()):
            steps = places[row].diff()
            gaps.add(int(steps[prompt]) - 1)  # column i is read for frame i: the first of the call is read behind it
            assert places[row, 0] == 0 and (steps[:prompt] == 1).all() and (steps[prompt + 1 :] == 1).all()
    assert gaps == set(range(10))


def test_heads_of_what_prompts_tell_begin_anew_after_an_older_file(task: LmTask) -> None:
    saved = deepcopy(task.save())
    before = deepcopy(task.heads.state_dict())
    saved["heads"] = {name: value for name, value in saved["heads"].items() if not name.startswith("told")}
    task.restore(saved)
    assert all(torch.equal(task.heads.state_dict()[name], before[name]) for name in before if name.startswith("told"))


def test_the_command_writes_what_export_reads(work: Path, tmp_path: Path) -> None:
    for name in ("codec", "coded", "clips.npz", "tokenizer.model"):
        (tmp_path / name).symlink_to(work / name)
    assert train_lm(tmp_path, LM, Plan(2, 1e-3), minutes=5, budget=BUDGET)
    written = load(tmp_path / "lm" / "model.pt")
    assert written["sizes"] == LM
    assert written["weights"].keys() == Moshi(MoshiConfig.from_kwargs(LM)).state_dict().keys()
