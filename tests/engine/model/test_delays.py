"""Other streams and token delays run through the same step, and equal the oracle's goldens (make_delays.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.moshi import UNGENERATED, Moshi, MoshiConfig
from engine.model.rows import Rows
from tests.engine.model.test_moshi import Driver, close
from tests.oracle import delay_cases as cases
from tests.oracle.weights import draw_all

GOLDENS = Path(__file__).parents[2] / "data" / "oracle" / "lm_delays.npz"
DELAY = {"asr": 6, "tts": 27}


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as file:
        return dict(file)


def build(case: str, seed: int) -> Moshi:
    model = Moshi(MoshiConfig.from_kwargs(cases.CONFIGS[case]))
    weights = draw_all({name: list(value.shape) for name, value in model.state_dict().items()}, seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("case", cases.CONFIGS)
def test_steps_equal_the_oracles(case: str, goldens: dict[str, NDArray[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(goldens[f"{case}/seed"])
    driver = Driver(build(case, seed), cases.ROWS, monkeypatch)
    assert driver.model.config.delay == DELAY[case]
    emitted = []
    for number, codes in enumerate(torch.from_numpy(cases.caller(case, seed))):
        emitted.append(driver.step(codes).emitted)
        if number % cases.LOGITS_EVERY == 0:
            at = number // cases.LOGITS_EVERY
            close(driver.text_logits(), torch.from_numpy(goldens[f"{case}/text_logits"][at]))
            if driver.model.config.dep_q:
                close(driver.audio_logits(), torch.from_numpy(goldens[f"{case}/audio_logits"][at]))
    assert (torch.stack(emitted[: DELAY[case]]) == UNGENERATED).all()
    assert torch.equal(torch.stack(emitted[DELAY[case] :]).short(), torch.from_numpy(goldens[f"{case}/emitted"]))


@torch.no_grad()
@pytest.mark.parametrize("case", cases.CONFIGS)
def test_rows_that_start_late_and_miss_steps_give_the_oracles_tokens(
    case: str, goldens: dict[str, NDArray[Any]]
) -> None:
    """Row 1 of the goldens in row 2 of a batch, stepped in two ticks of three; rows 0 and 3 do as they like."""
    seed = int(goldens[f"{case}/seed"])
    model = build(case, seed)
    config, state = model.config, model.initial_state(4)
    got: list[Tensor] = []
    heard = torch.from_numpy(cases.caller(case, seed))[:, 1]
    for tick in range(3 * cases.STEPS // 2):
        running = [row for row in (0, 2, 3) if (row + tick) % 3]
        codes = torch.full((len(running), config.n_q - config.dep_q), tick % 24)
        free = torch.full((len(running), config.made), UNGENERATED)
        if 2 in running:
            codes[running.index(2)] = heard[len(got)]
        some = Rows.of(running, torch.device("cpu"))
        selected = state.select(some)
        step = model.step(selected, codes, free, None, None)
        state.merge(some, selected)
        if 2 in running:
            got.append(step.emitted[running.index(2)])
    want = torch.from_numpy(goldens[f"{case}/emitted"])[:, 1]
    assert torch.equal(torch.stack(got[DELAY[case] :]).short(), want)
    assert len(got) == cases.STEPS
