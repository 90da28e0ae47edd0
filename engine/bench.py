"""How long a tick takes, and how that compares with what the device's memory allows:  python -m engine.bench

Random weights of the full size, made on the device (how long a step takes does not depend on their values), or a
checkpoint's; every row's window full from the first tick. Rows speak at 12.5 Hz: `together`, all frames arrive at once,
which is the hardest; `spread`, each row has its own place in the 80 ms. A reply is *late* when it is not on the host 80
ms after its frame was complete. One line of the CSV is one run. Needs torch, numpy, safetensors and sentencepiece only.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine.batch import Batch, KeyPrecision, RowStep
from engine.model.checkpoint import Checkpoint, load_checkpoint
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import UNGENERATED, Moshi, MoshiConfig
from engine.model.prompt import PromptLayout
from engine.model.text import Tokenizer
from engine.nano import train_tokenizer
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, EngineError, Sampling

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE

Arrivals = Literal["together", "spread"]

LEAST = 30
"""Ticks of a run, and turns of a part: fewer say nothing of a percentile."""

PART_TURNS = 40

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


@dataclass(frozen=True, slots=True)
class Report:
    """One run. Times in milliseconds; `bound_ms`: the bytes that a tick must read, at the speed that was measured."""

    device: str
    torch: str
    model: str
    precision: str
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
    encode: float
    language: float
    decode: float
    weight_bytes: int
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
            f"{self.model} {self.precision}, keys {self.kv}, on {self.device}, torch {self.torch}",
            f"{self.rows} rows, windows of {self.window} full, arrivals {self.arrivals}, {self.ticks} ticks",
            f"tick       {self.tick_p50:8.2f} p50 {self.tick_p95:8.2f} p95 {self.tick_p99:8.2f} p99 ms",
            f"reply      {self.reply_p50:8.2f} p50 {self.reply_p99:8.2f} p99 ms, late {self.late:.2e}",
            f"parts      {self.encode:8.2f} encode {self.language:8.2f} language model {self.decode:8.2f} decode ms",
            f"bound      {self.bound_ms:8.2f} ms: {self.weight_bytes / 1e9:.2f} GB of weights and {self.rows} times "
            f"{self.row_bytes / 1e9:.3f} GB at {self.read_gb_s:.0f} GB/s; {100 * self.of_bound:.0f} % of it reached",
            f"memory     {self.memory_bytes / 1e9:8.2f} GB",
        ]
        if self.against_p50 is not None:
            lines.append(
                f"against    {self.against_p50:8.2f} ms a tick by the moshi package: ours takes "
                f"{self.tick_p50 / self.against_p50:.2f} of that"
            )
        return "\n".join(lines)


# --- what is run ---------------------------------------------------------------------------------------------------


def random_checkpoint(sizes: MoshiConfig, codec: MimiConfig, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """A model of these sizes that knows nothing, made where it will run: no copy of it passes through the host."""
    torch.manual_seed(0)
    with torch.device("meta"):
        mimi, moshi = Mimi(codec, codec.quantizer.n_q), Moshi(sizes)
    for module, kind in ((mimi, torch.float32), (moshi, dtype)):
        module.to(kind).to_empty(device=device).requires_grad_(False)
        _draw(module)
    codes = max(sizes.dep_q, 1), max(sizes.n_q - sizes.dep_q, 1)
    layout = PromptLayout("none", (0,) * codes[0], (0,) * codes[1])
    return Checkpoint(mimi, moshi, Tokenizer(train_tokenizer()), layout, {}, "random", Sampling())


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


def parts(checkpoint: Checkpoint, batch: Batch) -> tuple[float, float, float]:
    """Medians of encoding, of the language model with its depth transformer, and of decoding, each alone, in ms."""
    device, sizes = batch.state.kv.position.device, checkpoint.moshi.config
    codec, codebooks = checkpoint.mimi.initial_state(batch.rows), checkpoint.mimi.codebooks
    audio = torch.zeros(batch.rows, 1, FRAME_SAMPLES, device=device)
    codes = torch.zeros(batch.rows, codebooks, 1, dtype=torch.int64, device=device)
    caller = torch.zeros(batch.rows, sizes.n_q - sizes.dep_q, dtype=torch.int64, device=device)
    forced = torch.full((batch.rows, sizes.made), UNGENERATED, device=device)
    encode = _median_ms(lambda: checkpoint.mimi.encode(audio, codec, None), device)
    language = _median_ms(lambda: checkpoint.moshi.step(batch.state, caller, forced, None, None), device)
    decode = _median_ms(lambda: checkpoint.mimi.decode(codes, codec, None), device)
    return encode, language, decode


def _median_ms(run: Callable[[], object], device: torch.device, turns: int = PART_TURNS) -> float:
    times = []
    for _ in range(turns):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Of what every tick reads, whoever is in it: all but embeddings, of which a row takes single lines."""
    tables = {id(part) for module in _modules(checkpoint) for part in _embeddings(module)}
    weights = [weight for module in _modules(checkpoint) for weight in (*module.parameters(), *module.buffers())]
    return sum(weight.numel() * weight.element_size() for weight in weights if id(weight) not in tables)


def _modules(checkpoint: Checkpoint) -> tuple[nn.Module, nn.Module]:
    return checkpoint.mimi, checkpoint.moshi


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
    best = min(_median_ms(lambda: block.sum(), device, 5) for _ in range(3))
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
    encode, language, decode = parts(checkpoint, batch)
    speed, weights, row = read_speed(device), weight_bytes(checkpoint), row_bytes(batch, plan.window)
    return Report(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        torch=torch.__version__,
        model=model,
        precision=str(checkpoint.moshi.text_emb.weight.dtype).removeprefix("torch."),
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
        encode=encode,
        language=language,
        decode=decode,
        weight_bytes=weights,
        row_bytes=row,
        memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_bytes(),
        read_gb_s=speed / 1e9,
        bound_ms=1000 * (weights + plan.rows * row) / speed,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


@torch.inference_mode()
def against_moshi(rows: int, device: torch.device, dtype: torch.dtype, turns: int = PART_TURNS) -> float:
    """Median milliseconds of the `moshi` package's own loop over as many rows, its weights random too.

    It reads all of its window from the first frame on. Raises ImportError where the package is not installed.
    """
    models = import_module("moshi.models")
    mimi = models.loaders.get_mimi(None, device=device, num_codebooks=8)
    language = models.loaders.get_moshi_lm(None, device=device, dtype=dtype)
    generator = models.LMGen(language, use_sampling=True)
    audio = torch.zeros(rows, 1, FRAME_SAMPLES, device=device)

    def turn() -> None:
        tokens = generator.step(mimi.encode(audio))
        if tokens is not None:
            mimi.decode(tokens[:, 1:]).cpu()

    with mimi.streaming(rows), generator.streaming(rows):
        _median_ms(turn, device, LEAST)  # until graphs are captured and it speaks
        return _median_ms(turn, device, turns)


def profile(checkpoint: Checkpoint, plan: Plan, kernels: int = 10) -> str:
    """A table of what takes the longest in a tick, and how many kernels it launches."""
    batch = Batch(checkpoint, plan.rows, kv=plan.kv)
    with torch.inference_mode():
        fill(batch, plan.window)
    steps = [RowStep(row, np.zeros(FRAME_SAMPLES, np.float32), None, Sampling()) for row in range(plan.rows)]
    for _ in range(3):
        batch.step(steps)
    cuda = batch.state.kv.position.is_cuda
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=kinds) as profiled:
        batch.step(steps)
    averages = profiled.key_averages()
    launches = sum(each.count for each in averages if each.key.startswith(("cudaLaunchKernel", "cuLaunchKernel")))
    table: str = averages.table(sort_by="self_cuda_time_total" if cuda else "self_cpu_time_total", row_limit=kernels)
    return f"{table}\nkernels launched in a tick: {launches if cuda else 'not counted on a CPU'}"


def append(path: Path, report: Report) -> None:
    """One more line of a CSV, which is begun where it is not there. Raises ValueError if it has other columns."""
    line = {**asdict(report), "of_bound": report.of_bound}
    there = path.exists() and path.stat().st_size > 0
    if there:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        if header != list(line):
            raise ValueError(f"{path} has other columns than a run of this version; name another file")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line))
        if not there:
            writer.writeheader()
        writer.writerow(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0, or 2 after a line that says what is wrong."""
    try:
        _run(_parser().parse_args(arguments))
    except (EngineError, ImportError, ValueError) as error:
        print(f"bench engine: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.precision]
    if options.model == "7b":
        checkpoint = random_checkpoint(MoshiConfig(), MimiConfig(), device, dtype)
    else:
        checkpoint = load_checkpoint(options.model, device, dtype)
    window = min(options.window or checkpoint.moshi.config.context, checkpoint.moshi.config.context)
    for rows in options.rows:
        plan = Plan(rows, window, options.arrivals, options.seconds, options.warm, options.kv)
        if options.profile:
            print(profile(checkpoint, plan))
            continue
        report = measure(checkpoint, plan, options.model)
        if options.against:
            report = replace(report, against_p50=against_moshi(rows, device, dtype))
        print(json.dumps(asdict(report)) if options.json else report, flush=True)
        if options.csv:
            append(options.csv, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench engine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="7b", help="7b, random; or a folder or repository (7b)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1], help="how many calls at once; several: one run each"
    )
    parser.add_argument("--window", type=int, help="frames that every row remembers (all that the model can)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of weights and keys (bf16)")
    parser.add_argument("--kv", choices=("full", "int8"), default="full", help="precision of keys and values (full)")
    parser.add_argument("--arrivals", choices=("together", "spread"), default="together")
    parser.add_argument("--seconds", type=float, default=300, help="to measure (300)")
    parser.add_argument("--warm", type=float, default=60, help="seconds before that (60)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (cuda if there is one)")
    parser.add_argument("--against", choices=("moshi",), help="also run that package's own loop")
    parser.add_argument("--profile", action="store_true", help="instead, what takes the longest in a tick")
    parser.add_argument("--csv", type=Path, help="append a line to this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
