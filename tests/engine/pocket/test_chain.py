"""The whole recipe, small: from the domain to a checkpoint that the engine serves and a table about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.batch import RowStep
from engine.load import load_batch
from engine.model.checkpoint import load_checkpoint
from engine.pocket.prompt import render
from engine.pocket.recipe import nano
from engine.pocket.recipe.measures import table
from engine.slot import FRAME_SAMPLES, Sampling
from tests.engine.rows import no_log, prime


def test_the_chain_makes_a_checkpoint_and_a_table(tmp_path: Path) -> None:
    results = nano.run(tmp_path, parts=("personas", "ear", "frame_time"), most=1)
    measured = {result.measure: result for result in results}
    assert all(result.seen and result.count for result in measured.values()), results
    assert len(table(results).splitlines()) == 2 + 3

    folder = tmp_path / "checkpoint"
    batch = load_batch(str(folder), 1, "cpu", "auto")
    batch.open(0, no_log(batch.streams))
    prime(batch, 0, render("You are Emma.", {"name": "Maria"}))
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    steps = [batch.step([RowStep(0, silence, None, Sampling(0.0, 1, 0.0, 1))])[0] for _ in range(5)]
    assert [step.number for step in steps] == list(range(5))
    assert all(np.isfinite(step.frame).all() for step in steps)
    assert batch.layout.style == "system"
    assert load_checkpoint(str(folder), config_name="ear.json").moshi.config.dep_q == 0

    # What was trained got better at it: the curves lie beside the checkpoints.
    curves = {part: nano.curve(tmp_path / part) for part in ("lm/lm.pt", "ear/ear.pt", "codec/encoder.pt")}
    assert all(curve and np.isfinite([line["loss"] for line in curve]).all() for curve in curves.values())
    assert json.loads((folder / "config.json").read_text())["prompt_config"]["style"] == "system"
