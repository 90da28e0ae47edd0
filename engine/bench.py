"""How long a tick takes, and how that compares with what the device's memory allows:  python -m engine.bench

Random weights of the full size, made on the device (how long a step takes does not depend on their values), or a
checkpoint's; every row's window full from the first tick (`engine/measure.py`). One line of the CSV is one run. Needs
torch, numpy, safetensors and sentencepiece only, and matplotlib to draw.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.batch import Batch, RowStep
from engine.estimate import CARDS, WEIGHTS, estimate
from engine.growth import growth, open_ear
from engine.measure import LEAST, Plan, Report, fill, measure, prepare, random_checkpoint
from engine.model.checkpoint import Checkpoint, load_checkpoint
from engine.model.mimi import MimiConfig
from engine.model.moshi import MoshiConfig
from engine.parts import PERCENTILES, TURNS, median_ms
from engine.plot import draw
from engine.slot import FRAME_SAMPLES, EngineError, Sampling
from engine.trimming import trim_cost


@torch.inference_mode()
def against_moshi(rows: int, device: torch.device, dtype: torch.dtype, turns: int = TURNS) -> float:
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
        median_ms(turn, device, LEAST)  # until graphs are captured and it speaks
        return median_ms(turn, device, turns)


def profile(checkpoint: Checkpoint, plan: Plan, kernels: int = 10) -> str:
    """A table of what takes the longest in a tick, and how many kernels it launches."""
    batch = Batch(checkpoint, plan.rows, kv=plan.kv)
    prepare(batch, plan.graphs)
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
    kernels_run, replays = counted(averages)
    table: str = averages.table(sort_by="self_cuda_time_total" if cuda else "self_cpu_time_total", row_limit=kernels)
    return f"{table}\nkernels in a tick: {f'{kernels_run}, by {replays} replays' if cuda else 'not counted on a CPU'}"


def counted(averages: Iterable[Any]) -> tuple[int, int]:
    """Of what a profiler saw: kernels that ran on the device, in a graph or by themselves, and replays of graphs."""
    kernels = replays = 0
    for each in averages:
        on_device = each.device_type.name == "CUDA"
        kernels += each.count if on_device and not each.key.startswith(("Memcpy", "Memset")) else 0
        replays += each.count if each.key.startswith(("cudaGraphLaunch", "cuGraphLaunch")) else 0
    return kernels, replays


def let_go(device: torch.device) -> None:
    """Of what the run before has held: steps and their rows know each other, so nothing but a search finds them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def append(path: Path, report: Report) -> None:
    """One more line of a CSV, which is begun where it is not there. Raises ValueError if it has other columns."""
    line = {**asdict(report), "of_bound": report.of_bound}
    for name, percentiles in line.pop("parts").items():
        line |= {f"{name}_p{share}": value for share, value in zip(PERCENTILES, percentiles, strict=True)}
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
    except torch.OutOfMemoryError as error:
        print(f"bench engine: the device's memory does not hold that: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except (EngineError, ImportError, ValueError) as error:
        print(f"bench engine: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.plot and not options.csv:
        raise ValueError("--plot draws what is in a CSV: name it by --csv")
    if options.plot and not options.rows:
        draw(options.csv, options.plot)
        return
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # where kernels are launched and graphs captured
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.precision]
    if options.model == "7b":
        checkpoint = random_checkpoint(MoshiConfig(), MimiConfig(), device, dtype, options.weights)
    else:
        checkpoint = load_checkpoint(options.model, device, dtype, packing=options.weights)
    window = min(options.window or checkpoint.moshi.config.context, checkpoint.moshi.config.context)
    ear = open_ear(options.ear, options.model, checkpoint, dtype) if options.ear else None
    for rows in options.rows:
        let_go(device)
        if options.trim:
            print(trim_cost(checkpoint, rows, window, options.kv, options.graphs), flush=True)
            continue
        plan = Plan(rows, window, options.arrivals, options.seconds, options.warm, options.kv, options.graphs)
        if ear is not None:
            print(growth(checkpoint, ear, rows, window, options.kv, options.graphs), flush=True)
            continue
        if options.profile:
            print(profile(checkpoint, plan))
            continue
        report = measure(checkpoint, plan, options.model)
        if options.against:
            let_go(device)
            report = replace(report, against_p50=against_moshi(rows, device, dtype))
        there = [estimate(report, CARDS[options.estimate], weights) for weights in WEIGHTS] if options.estimate else []
        if options.json:
            print(json.dumps({**asdict(report), "estimates": list(map(asdict, there))}), flush=True)
        else:
            print(report, *there, sep="\n", flush=True)
        if options.csv:
            append(options.csv, report)
    if options.plot:
        draw(options.csv, options.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench engine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="7b", help="7b, random; or a folder or repository (7b)")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[1], help="how many calls at once; several: one run each; none: no run"
    )
    parser.add_argument("--window", type=int, help="frames that every row remembers (all that the model can)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="that is computed in (bf16)")
    parser.add_argument(
        "--weights",
        choices=("stored", "fp8", "int8", "int4"),
        default="stored",
        help="how the language model's large weights lie in memory (as they are made, or stored)",
    )
    parser.add_argument("--kv", choices=("full", "int8"), default="full", help="precision of keys and values (full)")
    parser.add_argument("--graphs", choices=("auto", "on", "off"), default="auto", help="captured steps (on a card)")
    parser.add_argument("--arrivals", choices=("together", "spread"), default="together")
    parser.add_argument("--seconds", type=float, default=300, help="to measure (300)")
    parser.add_argument("--warm", type=float, default=60, help="seconds before that (60)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (cuda if there is one)")
    parser.add_argument("--against", choices=("moshi",), help="also run that package's own loop")
    parser.add_argument(
        "--ear", help="instead, how much longer ticks take with one: 1b, random; auto, that beside MODEL; or a folder"
    )
    parser.add_argument("--trim", action="store_true", help="instead, what a trim of one call costs the others")
    parser.add_argument("--profile", action="store_true", help="instead, what takes the longest in a tick")
    parser.add_argument("--csv", type=Path, help="append a line to this file")
    parser.add_argument("--plot", type=Path, help="draw what is in the CSV, as .png, .svg or .pdf (needs matplotlib)")
    parser.add_argument("--estimate", choices=sorted(CARDS), help="what another card would do, by bytes: an estimate")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
