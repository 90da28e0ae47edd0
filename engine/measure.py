"""One run of the bench: how long ticks take, and how that compares with what the device's memory allows.

Every row's window is full from the first tick. Rows speak at 12.5 Hz: `together`, all frames arrive at once, which is
the hardest; `spread`, each row has its own place in the 80 ms. A reply is *late* when it is not on the host 80 ms after
its frame was complete.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from engine.admission import row_counts
from engine.batch import Batch, KeyPrecision, RowStep
from engine.model.checkpoint import Checkpoint
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.prompt import PromptLayout
from engine.model.stored import repack
from engine.model.text import Tokenizer
from engine.model.weights import Packed, Packing
from engine.nano import train_tokenizer
from engine.parts import median_ms, parts
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, Sampling

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE

Arrivals = Literal["together", "spread"]

M = TypeVar("M", bound=nn.Module)

Graphs = Literal["auto", "on", "off"]

LEAST = 30
"""Ticks of a run, and turns of a loop: fewer say nothing of a percentile."""

RESOLUTION_S = 1e-6
"""What comes so soon has come: no clock can wait for less."""

READ_BYTES = {"cpu": 2**27, "cuda": 2**31}
"""What the memory's speed is measured with: far more than any cache."""

WEIGHT_SCALE = 0.02
"""Standard deviation of the random weights: activations stay numbers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `window`: frames that every row remembers, full from the first tick."""

    rows: int
    window: int
    arrivals: Arrivals
    seconds: float
    warm_s: float
    kv: KeyPrecision = "full"
    graphs: Graphs = "auto"


@dataclass(frozen=True, slots=True)
class Report:
    """One run. Times in milliseconds; `bound_ms`: the bytes that a tick must read, at the speed that was measured;
    `parts`: what `parts.parts` gives."""

    device: str
    torch: str
    model: str
    precision: str
    weights: str
    kv: str
    rows: int
    window: int
    arrivals: str
    ticks: int
    tick_p50: float
    tick_p95: float
    tick_p99: float
    reply_p50: float
    reply_p99: float
    late: float
    parts: Mapping[str, Sequence[float]]
    weight_bytes: int
    codec_bytes: int
    temporal_bytes: int
    row_bytes: int
    memory_bytes: int
    read_gb_s: float
    bound_ms: float
    against_p50: float | None = None

    @property
    def of_bound(self) -> float:
        """How much of what is possible is reached: 1 is all."""
        return self.bound_ms / self.tick_p50

    def __str__(self) -> str:
        lines = [
            f"{self.model} {self.precision}, weights {self.weights}, keys {self.kv}, on {self.device}, "
            f"torch {self.torch}",
            f"{self.rows} rows, windows of {self.window} full, arrivals {self.arrivals}, {self.ticks} ticks",
            f"tick       {self.tick_p50:8.2f} p50 {self.tick_p95:8.2f} p95 {self.tick_p99:8.2f} p99 ms",
            f"reply      {self.reply_p50:8.2f} p50 {self.reply_p99:8.2f} p99 ms, late {self.late:.2e}",
            f"bound      {self.bound_ms:8.2f} ms: {self.weight_bytes / 1e9:.2f} GB of weights and {self.rows} times "
            f"{self.row_bytes / 1e9:.3f} GB at {self.read_gb_s:.0f} GB/s; {100 * self.of_bound:.0f} % of it reached",
            f"memory     {self.memory_bytes / 1e9:8.2f} GB",
        ]
        lines += [
            f"{name:10} {p50:8.2f} p50 {p95:8.2f} p95 {p99:8.2f} p99 ms, by itself"
            for name, (p50, p95, p99) in self.parts.items()
        ]
        if self.against_p50 is not None:
            lines.append(
                f"against    {self.against_p50:8.2f} ms a tick by the moshi package: ours takes "
                f"{self.tick_p50 / self.against_p50:.2f} of that"
            )
        return "\n".join(lines)


# --- what is run ---------------------------------------------------------------------------------------------------


def random_checkpoint(
    sizes: MoshiConfig, codec: MimiConfig, device: torch.device, dtype: torch.dtype, packing: Packing = "stored"
) -> Checkpoint:
    """A model of these sizes that knows nothing, made where it will run: no copy of it passes through the host."""
    torch.manual_seed(0)
    mimi = drawn(lambda: Mimi(codec, codec.quantizer.n_q), device, torch.float32)
    moshi = drawn(lambda: Moshi(sizes), device, dtype)
    repack(moshi, packing)
    codes = max(sizes.dep_q, 1), max(sizes.n_q - sizes.dep_q, 1)
    layout = PromptLayout("none", (0,) * codes[0], (0,) * codes[1])
    return Checkpoint(mimi, moshi, Tokenizer(train_tokenizer()), layout, {}, "random", Sampling())


def drawn(build: Callable[[], M], device: torch.device, dtype: torch.dtype) -> M:
    """A module of random weights, made where it will run."""
    with torch.device("meta"):
        module = build()
    module.to(dtype).to_empty(device=device).requires_grad_(False)
    _draw(module)
    return module


def _draw(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            tensor.zero_()
        elif name.endswith(("alpha", "scale", "cluster_usage")) or tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0, WEIGHT_SCALE)


def fill(batch: Batch, window: int) -> None:
    """As if every row had already stepped `window` frames. What it remembers is noise; reading it takes as long."""
    kv = batch.state.kv
    for ring in (kv.keys, kv.values):
        part = ring[..., : min(window, ring.shape[-2]), :]
        part.random_(-100, 100) if kv.scales else part.normal_()
    for scale in kv.scales or ():
        scale.fill_(0.01)
    kv.position.fill_(window)
    if kv.position.is_cuda:
        torch.cuda.synchronize(kv.position.device)  # else the first tick that is timed waits for all that noise


def prepare(batch: Batch, graphs: Graphs) -> None:
    """Let steps be static ones, on CUDA captured, as an engine with that setting does."""
    cuda = batch.state.kv.position.is_cuda
    if graphs == "on" or (graphs == "auto" and cuda):
        batch.prepare(row_counts(batch.rows), graphs=cuda)


def due(rows: int, arrivals: Arrivals, tick_s: float = FRAME_S) -> list[float]:
    """When in the 80 ms each row's frame is complete."""
    return [0.0] * rows if arrivals == "together" else [tick_s * row / rows for row in range(rows)]


def drive(
    step: Callable[[list[int]], None],
    phases: Sequence[float],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[float, list[float]]]:
    """Let frames arrive for so long, and step as the engine does: a tick begins when one waits and the last is done.

    Gives each tick's length, and how long after its frame was complete each of its replies was there. A row whose next
    frame comes before its last one was answered keeps both: nothing is dropped, so a device that is too slow shows it.
    """
    began = clock()
    counts = [0] * len(phases)
    while (now := clock() - began) < seconds:
        complete = [phase + FRAME_S * count for phase, count in zip(phases, counts, strict=True)]
        ready = [row for row, at in enumerate(complete) if at <= now + RESOLUTION_S]
        if not ready:
            sleep(max(0.0, min(complete) - now))
            continue
        step(ready)
        done = clock() - began
        for row in ready:
            counts[row] += 1
        yield done - now, [done - complete[row] for row in ready]


# --- how long its parts take, and how long they must ---------------------------------------------------------------


def weight_bytes(*modules: nn.Module) -> int:
    """Of what every tick reads, whoever is in it: all but embeddings, of which a row takes single lines."""
    tables = {id(part) for module in modules for part in _embeddings(module)}
    weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    return sum(weight.numel() * weight.element_size() for weight in weights if id(weight) not in tables)


def _embeddings(module: nn.Module) -> Iterator[Tensor]:
    return (part.weight for part in module.modules() if isinstance(part, nn.Embedding))


def row_bytes(batch: Batch, window: int) -> int:
    """Keys and values that a tick reads of each row whose window is full."""
    kv = batch.state.kv
    slots = kv.keys.shape[-2]
    rings = (kv.keys, kv.values, *(kv.scales or ()))  # [B, layers, heads, slots, ...] each
    return sum(ring[0].numel() // slots * min(window, slots) * ring.element_size() for ring in rings)


def read_speed(device: torch.device) -> float:
    """Bytes a second that the device reads, the best of several: what no kernel of ours can exceed."""
    size = READ_BYTES.get(device.type, READ_BYTES["cpu"])
    block = torch.ones(size // 4, dtype=torch.float32, device=device)
    best = min(median_ms(lambda: block.sum(), device, 5) for _ in range(3))
    return size / (best / 1000)


# --- a run ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure(
    checkpoint: Checkpoint,
    plan: Plan,
    model: str,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Raises ValueError if so few ticks were run that percentiles would say nothing."""
    batch = Batch(checkpoint, plan.rows, kv=plan.kv)
    device = batch.state.kv.position.device
    prepare(batch, plan.graphs)
    fill(batch, plan.window)
    silence, sampling = np.zeros(FRAME_SAMPLES, np.float32), Sampling()

    def step(rows: list[int]) -> None:
        batch.step([RowStep(row, silence, None, sampling) for row in rows])

    phases = due(plan.rows, plan.arrivals)
    for _ in drive(step, phases, plan.warm_s, clock, sleep):
        pass
    fill(batch, plan.window)
    ticks, replies = [], []
    for tick, answered in drive(step, phases, plan.seconds, clock, sleep):
        ticks.append(1000 * tick)
        replies += [1000 * each for each in answered]
    if len(ticks) < LEAST:
        raise ValueError(f"{len(ticks)} ticks in {plan.seconds:g} s are too few; give it time for {LEAST}")
    speed, row = read_speed(device), row_bytes(batch, plan.window)
    codec = weight_bytes(checkpoint.mimi)
    language_bytes = weight_bytes(checkpoint.moshi)
    return Report(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        torch=torch.__version__,
        model=model,
        precision=str(checkpoint.moshi.text_emb.weight.dtype).removeprefix("torch."),
        weights=packed_as(checkpoint.moshi),
        kv=str(batch.state.kv.keys.dtype).removeprefix("torch."),
        rows=plan.rows,
        window=plan.window,
        arrivals=plan.arrivals,
        ticks=len(ticks),
        tick_p50=_percentile(ticks, 50),
        tick_p95=_percentile(ticks, 95),
        tick_p99=_percentile(ticks, 99),
        reply_p50=_percentile(replies, 50),
        reply_p99=_percentile(replies, 99),
        late=float(np.mean(np.array(replies) > 1000 * FRAME_S)),
        parts=parts(checkpoint, batch),
        weight_bytes=codec + language_bytes,
        codec_bytes=codec,
        temporal_bytes=weight_bytes(checkpoint.moshi.transformer),
        row_bytes=row,
        memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_bytes(),
        read_gb_s=speed / 1e9,
        bound_ms=1000 * (codec + language_bytes + plan.rows * row) / speed,
    )


def packed_as(moshi: Moshi) -> str:
    """The type of the Temporal Transformer's weights, `uint8` where each holds two of four bits."""
    packed = next((part for part in moshi.transformer.modules() if isinstance(part, Packed)), None)
    weight = next(moshi.transformer.parameters()) if packed is None else packed.get_buffer("codes")
    return str(weight.dtype).removeprefix("torch.")


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))


def _resident_bytes() -> int:
    """The most that the process has held, as the card's figure is the most that was."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
