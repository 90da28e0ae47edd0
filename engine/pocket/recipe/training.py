"""The loop that trains anything of the recipe in slices: call it again, and it goes on where it stopped.

What a step does depends on its number and the seed alone, so a run in slices gives the same weights as one in a piece.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.model.moshi import Moshi

SAVE_S = 210
"""Seconds between checkpoints."""

REPORT_S = 20
"""Seconds between lines of the log."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and how fast. The rate warms up linearly, then falls as a cosine from `rate` to `floor` times it."""

    steps: int
    rate: float
    warm_up: int = 50
    floor: float = 0.03
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 3.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (self.floor + (1 - self.floor) * fall)

    def random(self, step: int) -> np.random.Generator:
        """For all that is drawn in a step."""
        return np.random.default_rng((self.seed, step))


class Task(Protocol):
    """What is trained. `state` and `restore` carry all that its steps change."""

    def weights(self) -> Sequence[nn.Parameter]:
        """What the optimiser moves."""

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step, and figures for the log."""

    def moved(self, step: int) -> None:
        """Called after the weights moved."""

    def save(self) -> dict[str, Any]: ...

    def restore(self, saved: dict[str, Any]) -> None: ...


@dataclass
class Curve:
    """Figures of the steps since the last line of the log; `lines` keeps their means."""

    lines: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, float]] = field(default_factory=list)

    def add(self, figures: dict[str, float]) -> None:
        self.pending.append(figures)

    def line(self, step: int, minutes: float) -> dict[str, float]:
        """Sum up and start anew."""
        names = {name for figures in self.pending for name in figures}
        means = {name: float(np.mean([each[name] for each in self.pending if name in each])) for name in sorted(names)}
        self.pending.clear()
        self.lines.append({"step": step, "minutes": round(minutes, 2), **means})
        return self.lines[-1]


def train(
    task: Task,
    plan: Plan,
    checkpoint: Path,
    minutes: float,
    saved: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Run for so many minutes, or to the plan's end; True when it is reached. Calls `saved` after each checkpoint.

    Raises ValueError where the checkpoint is of another plan: its steps would mean something else.
    """
    optimiser = torch.optim.AdamW(list(task.weights()), lr=plan.rate, betas=plan.betas, weight_decay=0, fused=True)
    curve, step, before = Curve(), 0, 0.0
    began = reported = written = clock()

    def write() -> None:
        seconds = before + clock() - began
        parts = {"plan": plan, "step": step, "seconds": seconds, "curve": curve.lines}
        store(checkpoint, {**parts, "optimiser": optimiser.state_dict(), "task": task.save()})
        saved()

    if checkpoint.exists():
        state = load(checkpoint)
        if state["plan"] != plan:
            raise ValueError(f"{checkpoint} was begun with {state['plan']}, not {plan}; delete it to start anew")
        step, before, curve.lines = state["step"], state["seconds"], state["curve"]
        task.restore(state["task"])  # first: it says what is wrong with what an older version left
        optimiser.load_state_dict(state["optimiser"])
    else:
        write()  # a run that is stopped at once has lost nothing that was begun with
    while step < plan.steps and clock() - began < 60 * minutes:
        curve.add(_step(task, plan, step, optimiser))
        step += 1
        now = clock()
        if now - reported > REPORT_S or step == plan.steps:
            _report(curve.line(step, (before + now - began) / 60), plan.steps)
            reported = now
        if now - written > SAVE_S:
            write()
            written = now
    write()
    return step >= plan.steps


def begin_again(task: Task, checkpoint: Path) -> None:
    """Take the weights of a checkpoint and put it aside, so that `train` begins a plan with them.

    Raises ValueError where there is none.
    """
    if not checkpoint.exists():
        raise ValueError(f"there is no {checkpoint} to begin again from; leave out --again")
    task.restore(load(checkpoint)["task"])
    checkpoint.replace(checkpoint.with_suffix(".before.pt"))


class MoshiTask(Task, Protocol):
    """A task that trains a language model, or an ear."""

    moshi: Moshi


def train_moshi(
    task: MoshiTask, checkpoint: Path, sizes: dict[str, Any], plan: Plan, minutes: float, again: bool
) -> bool:
    """`train`, with the model for `export` beside each checkpoint. `again`: from its weights, with a new plan."""
    if again:
        begin_again(task, checkpoint)

    def write() -> None:
        store(checkpoint.with_name("model.pt"), {"sizes": sizes, "weights": task.moshi.state_dict()})

    return train(task, plan, checkpoint, minutes, write)


@dataclass(frozen=True, slots=True)
class Slice:
    """What a command is to do of its training."""

    work: Path
    plan: Plan
    minutes: float
    again: bool


def slice_of(command: str, description: str | None, steps: int, rate: float, arguments: Sequence[str] | None) -> Slice:
    """The command line of a training; None: the program's own."""
    parser = argparse.ArgumentParser(
        prog=command, description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the data lies (build/pocket)")
    parser.add_argument("--minutes", type=float, default=8, help="to run before stopping (8)")
    parser.add_argument("--steps", type=int, default=steps, help=f"of the whole training ({steps})")
    parser.add_argument("--rate", type=float, default=rate, help=f"of learning ({rate})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="a new cosine from the weights that there are")
    options = parser.parse_args(arguments)
    plan = Plan(options.steps, options.rate, warm_up=100, seed=options.seed)
    return Slice(options.work, plan, options.minutes, options.again)


def _step(task: Task, plan: Plan, step: int, optimiser: torch.optim.Optimizer) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = plan.rate_at(step)
    loss, figures = task.loss(step, plan.random(step))
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(task.weights(), plan.clip)
    if norm.isfinite():  # a step that blew up is left out
        optimiser.step()
    task.moved(step)
    return {"loss": loss.item(), "norm": norm.item(), **figures}


def _report(line: dict[str, float], steps: int) -> None:
    """A progress bar that is also a log: one line a report."""
    done = line["step"] / steps
    left = line["minutes"] * (1 - done) / max(done, 1e-9)
    bar = ("#" * round(20 * done)).ljust(20, "-")
    figures = " ".join(f"{name} {value:.3g}" for name, value in line.items() if name not in {"step", "minutes"})
    print(f"[{bar}] {line['step']:.0f}/{steps} {line['minutes']:.1f} min, {left:.0f} left: {figures}", flush=True)


class Average:
    """A moving average of weights, for the file that is shipped."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: weight.detach().clone() for name, weight in module.named_parameters()}
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """The first steps weigh more, so that the average does not hang on to where it began."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for name, weight in module.named_parameters():
            self.values[name].lerp_(weight.detach(), 1 - decay)


def use_device() -> torch.device:
    """CUDA where there is one; else one thread of the CPU, for the machine is seldom ours alone."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    # glibc hands large blocks back to the system and fetches them anew at every layer; keeping them saves the faults.
    if allocator := getattr(ctypes.CDLL(None), "mallopt", None):
        allocator(_M_MMAP_MAX, 0)
        allocator(_M_TRIM_THRESHOLD, 2**31 - 1)
    return torch.device("cpu")


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def fast_type(device: torch.device) -> torch.dtype | None:
    """What to autocast to: bfloat16 where the hardware has it. Emulated, it is ten times slower than float32."""
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


def generator_of(random: np.random.Generator) -> torch.Generator:
    """Torch's draws depend on the step alone, on any device."""
    return torch.Generator().manual_seed(int(random.integers(1 << 62)))


def store(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: the run may be stopped at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(content, part)
    part.rename(path)


def load(path: Path) -> dict[str, Any]:
    """What `store` wrote, on the CPU. Our own file, so pickles in it are welcome."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return content
