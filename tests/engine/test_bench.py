"""The engine's bench: what it counts and reports, on a made-up clock and on the nano checkpoint."""

from __future__ import annotations

import csv
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from engine import bench
from engine import measure as measure_module
from engine.batch import Batch
from engine.bench import append
from engine.estimate import CARDS, INT4_BYTES, WEIGHTS, estimate
from engine.measure import (
    FRAME_S,
    LEAST,
    Plan,
    Report,
    drive,
    due,
    fill,
    measure,
    random_checkpoint,
    row_bytes,
    weight_bytes,
)
from engine.model.checkpoint import Checkpoint, load_checkpoint
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.weights import Packing, RowScaled
from engine.nano import MIMI, MOSHI, write_nano
from engine.parts import TURNS
from engine.plot import draw, runs


class Clock:
    """Time that passes only where it is told to; each look takes `look_s`."""

    def __init__(self, look_s: float = 0.0) -> None:
        self.now, self._look_s = 100.0, look_s

    def __call__(self) -> float:
        self.now += self._look_s
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def drive_with(
    cost: Callable[[list[int]], float], phases: list[float], seconds: float
) -> list[tuple[float, list[float]]]:
    clock = Clock()

    def step(rows: list[int]) -> None:
        clock.now += cost(rows)

    return list(drive(step, phases, seconds, clock, clock.sleep))


def measured(checkpoint: Checkpoint, plan: Plan) -> Report:
    """A run in which every tick takes a millisecond."""
    clock = Clock(0.001)
    return measure(checkpoint, plan, "nano", clock, clock.sleep)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    write_nano(folder, 0)
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder))


def test_frames_arrive_together_or_each_at_its_place() -> None:
    assert due(3, "together") == [0, 0, 0]
    assert due(4, "spread") == pytest.approx([0, 0.02, 0.04, 0.06])


def test_rows_that_come_together_are_one_tick_and_wait_for_it() -> None:
    ticks = drive_with(lambda rows: 0.03, [0.0, 0.0], 10 * FRAME_S - 0.001)
    assert len(ticks) == 10
    assert all(tick == pytest.approx(0.03) and replies == pytest.approx([0.03, 0.03]) for tick, replies in ticks)


def test_a_row_that_comes_while_a_tick_runs_waits_for_the_next() -> None:
    (first, one), (second, two), *_ = drive_with(lambda rows: 0.03, [0.0, 0.01], 5 * FRAME_S)
    assert (first, second) == pytest.approx((0.03, 0.03))
    assert one == pytest.approx([0.03]) and two == pytest.approx([0.05])  # 20 ms of waiting, 30 of its own


def test_what_is_too_slow_is_late_and_drops_nothing() -> None:
    ticks = drive_with(lambda rows: 0.1, [0.0], 0.95)
    replies = [reply for _, each in ticks for reply in each]
    assert replies == pytest.approx([0.1 + 0.02 * number for number in range(10)])


def test_weights_are_counted_without_tables_of_single_lines(checkpoint: Checkpoint) -> None:
    moshi = checkpoint.moshi
    tables = sum(part.weight.numel() for part in moshi.modules() if isinstance(part, torch.nn.Embedding))
    everything = sum(
        weight.numel() for part in (moshi, checkpoint.mimi) for weight in (*part.parameters(), *part.buffers())
    )
    assert tables > 0
    counted = weight_bytes(checkpoint.mimi, checkpoint.moshi)
    assert 4 * (everything - tables) * 0.99 < counted < 4 * everything


def test_full_size_is_what_the_reference_counts() -> None:
    """14.75 GB of a step in bfloat16 and 0.3 GB of codec; 1.573 GB of keys and values at 3,000 frames."""
    with torch.device("meta"):
        moshi = Moshi(MoshiConfig()).to(torch.bfloat16)
        mimi = Mimi(MimiConfig(), 8)
    language = sum(weight.numel() * 2 for weight in moshi.parameters())
    language -= sum(part.weight.numel() * 2 for part in moshi.modules() if isinstance(part, torch.nn.Embedding))
    assert language / 1e9 == pytest.approx(14.75, abs=0.01)
    codec = sum(weight.numel() * 4 for weight in mimi.parameters()) / 1e9
    assert 0.25 < codec < 0.4
    sizes = MoshiConfig().temporal
    assert 2 * sizes.layers * sizes.dim * 2 * 3_000 / 1e9 == pytest.approx(1.573, abs=0.001)


def test_a_filled_row_is_at_its_window_and_read_whole(checkpoint: Checkpoint) -> None:
    batch = Batch(checkpoint, 2)
    with torch.inference_mode():
        fill(batch, 40)
    kv = batch.state.kv
    assert kv.position.tolist() == [40, 40]
    assert kv.keys[..., :40, :].abs().min() > 0 and not kv.keys[..., 40:, :].any()
    sizes = checkpoint.moshi.config.temporal
    assert row_bytes(batch, 40) == 2 * sizes.layers * sizes.dim * 40 * 4
    assert row_bytes(batch, 10**6) == 2 * sizes.layers * sizes.dim * sizes.context * 4
    small = Batch(checkpoint, 1, kv="int8")
    with torch.inference_mode():
        fill(small, 40)
    assert row_bytes(small, 40) == 2 * sizes.layers * (sizes.dim + 4 * sizes.heads) * 40
    assert small.state.kv.keys[..., :40, :].float().std() > 10


def test_a_run_reports_what_it_saw(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = measured(checkpoint, Plan(2, 20, "together", 3.0, 0.1))
    assert report.ticks >= LEAST
    assert report.ticks == 38  # one at once, then one each 80 ms
    assert (report.tick_p50, report.tick_p95, report.tick_p99) == pytest.approx((1, 1, 1))
    assert 0 < report.codec_bytes < report.weight_bytes
    assert 10e6 < report.memory_bytes < 1e11  # a process with torch in it, and no more than a machine has
    assert 1 <= report.reply_p50 <= report.reply_p99 < 5 and report.late == 0
    assert list(report.parts) == ["encode", "temporal", "depth", "decode", "copies"]
    assert all(0 < p50 <= p95 <= p99 for p50, p95, p99 in report.parts.values())
    assert report.bound_ms == pytest.approx(
        (report.weight_bytes + 2 * report.row_bytes) / report.read_gb_s / 1e6, rel=1e-6
    )
    assert f"{100 * report.of_bound:.0f} % of it reached" in str(report)
    path = tmp_path / "runs.csv"
    for _ in range(2):
        append(path, report)
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(lines) == 2 and float(lines[1]["tick_p99"]) == report.tick_p99
    assert float(lines[0]["depth_p95"]) == report.parts["depth"][1]
    path.write_text("a,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has other columns"):
        append(path, report)


def test_too_few_ticks_are_no_run(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"ticks in 0\.2 s are too few; give it time for 30"):
        measured(checkpoint, Plan(1, 20, "spread", 0.2, 0.0))


def test_random_weights_are_made_where_they_run_and_step() -> None:
    sizes, codec = MoshiConfig.from_kwargs(MOSHI), MimiConfig.from_dict(MIMI)
    checkpoint = random_checkpoint(sizes, codec, torch.device("cpu"), torch.float32)
    assert not any(weight.is_meta for weight in (*checkpoint.moshi.parameters(), *checkpoint.mimi.buffers()))
    assert measured(checkpoint, Plan(1, 20, "spread", 3.0, 0.0)).ticks >= LEAST


@pytest.mark.parametrize(("packing", "lie"), [("int8", "int8"), ("int4", "uint8")])
def test_random_weights_are_packed_as_a_files_would_be(packing: Packing, lie: str) -> None:
    sizes, codec = MoshiConfig.from_kwargs(MOSHI), MimiConfig.from_dict(MIMI)
    device = torch.device("cpu")
    plain, packed = (random_checkpoint(sizes, codec, device, torch.float32, each) for each in ("stored", packing))
    reports = [measured(each, Plan(1, 20, "spread", 3.0, 0.0)) for each in (plain, packed)]
    assert [report.weights for report in reports] == ["float32", lie]
    assert reports[1].temporal_bytes < (0.4 if packing == "int8" else 0.3) * reports[0].temporal_bytes
    # The same numbers but for the rounding of so many bits.
    name = "depformer.layers.0.self_attn.in_proj_weight"
    made, rounded = plain.moshi.get_parameter(name), packed.moshi.get_submodule(name)
    assert isinstance(rounded, RowScaled)
    assert torch.allclose(made, rounded.plain(), atol=float(made.abs().max()) / 200)


def test_the_command_prints_json_and_profiles(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.csv"
    chosen = ["--model", str(folder), "--device", "cpu", "--precision", "fp32", "--window", "20"]
    clock = Clock(0.001)
    monkeypatch.setattr(bench, "measure", partial(measure, clock=clock, sleep=clock.sleep))
    asked = ["--seconds", "3", "--warm", "0", "--json", "--csv", str(path), "--estimate", "l4"]
    assert bench.main([*chosen, *asked]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(there["card"], there["weights"]) for there in printed["estimates"]] == [
        ("L4", "as measured"),
        ("L4", "int8"),
        ("L4", "int4"),
    ]
    assert printed["rows"] == 1 and printed["window"] == 20
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    assert bench.main([*chosen, "--profile"]) == 0
    assert "Self CPU" in capsys.readouterr().out


def test_kernels_are_counted_where_they_ran_and_replays_where_they_were_asked_for() -> None:
    kinds = {"gemm": "CUDA", "Memcpy HtoD": "CUDA", "cudaGraphLaunch": "CPU", "cudaLaunchKernel": "CPU", "add": "CUDA"}
    seen = [SimpleNamespace(key=key, device_type=SimpleNamespace(name=kind), count=3) for key, kind in kinds.items()]
    assert bench.counted(seen) == (6, 3)


def test_a_run_holds_nothing_of_the_run_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Static steps and their rows hold each other."""
    alive: list[int] = []
    clock = Clock(0.001)

    def watched(checkpoint: Checkpoint, plan: Plan, model: str) -> Report:
        alive.append(sum(type(each) is Batch and each._moshi is checkpoint.moshi for each in gc.get_objects()))
        return measure(checkpoint, plan, model, clock, clock.sleep)

    monkeypatch.setattr(bench, "measure", watched)
    chosen = ["--model", str(folder), "--device", "cpu", "--precision", "fp32", "--window", "20", "--graphs", "on"]
    assert bench.main([*chosen, "--rows", "1", "2", "1", "--seconds", "3", "--warm", "0"]) == 0
    assert alive == [0, 0, 0]


def test_too_little_memory_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> Report:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 100 GiB.")

    monkeypatch.setattr(bench, "measure", full)
    assert bench.main(["--model", str(folder), "--device", "cpu", "--precision", "fp32"]) == 2
    assert capsys.readouterr().err == "bench engine: the device's memory does not hold that: CUDA out of memory.\n"


def test_what_cannot_be_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", str(tmp_path / "nothing"), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench engine: ") and "nothing" in line


def test_the_other_package_is_timed_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not installed here: what stands in for it shows that its loop is driven as its own server drives it."""
    calls: list[str] = []

    class Streams:
        def streaming(self, rows: int) -> torch.autograd.profiler.record_function:
            calls.append(f"rows {rows}")
            return torch.autograd.profiler.record_function("streaming")

    class Codec(Streams):
        def encode(self, audio: torch.Tensor) -> torch.Tensor:
            assert audio.shape == (3, 1, 1920)
            calls.append("encode")
            return torch.zeros(3, 8, 1)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            assert codes.shape == (3, 8, 1)
            calls.append("decode")
            return torch.zeros(3, 1, 1920)

    class Generator(Streams):
        def __init__(self, model: object, use_sampling: bool) -> None:
            self.steps = 0

        def step(self, codes: torch.Tensor) -> torch.Tensor | None:
            self.steps += 1
            return torch.zeros(3, 9, 1) if self.steps > 2 else None

    models = ModuleType("moshi.models")
    loaders = ModuleType("moshi.models.loaders")
    monkeypatch.setattr(loaders, "get_mimi", lambda *_, **__: Codec(), raising=False)
    monkeypatch.setattr(loaders, "get_moshi_lm", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(models, "loaders", loaders, raising=False)
    monkeypatch.setattr(models, "LMGen", Generator, raising=False)
    for name, module in (("moshi", ModuleType("moshi")), ("moshi.models", models)):
        monkeypatch.setitem(sys.modules, name, module)
    assert bench.against_moshi(3, torch.device("cpu"), torch.float32) > 0
    turns = LEAST + TURNS
    assert (calls.count("encode"), calls.count("decode"), calls.count("rows 3")) == (turns, turns - 2, 2)


def test_a_report_survives_json(checkpoint: Checkpoint) -> None:
    report = measured(checkpoint, Plan(1, 20, "together", 3.0, 0.0))
    assert Report(**json.loads(json.dumps(asdict(report)))) == report


# --- pictures and other cards ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint) -> Report:
    return measured(checkpoint, Plan(2, 20, "together", 3.0, 0.0))


def test_static_steps_are_measured_as_an_engine_would_run_them(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[list[int], bool]] = []
    monkeypatch.setattr(Batch, "prepare", lambda batch, widths, graphs: prepared.append((widths, graphs)))
    each: tuple[measure_module.Graphs, ...] = ("auto", "off", "on")
    for graphs in each:
        measure_module.prepare(Batch(checkpoint, 3), graphs)
    assert prepared == [([1, 2, 3], False)]


def test_another_card_is_estimated_by_its_bytes_and_the_share_that_was_reached(report: Report) -> None:
    """Full size by hand: 14.75 GB of bfloat16 and 0.3 of codec, 1.573 GB a row, at 75 % of what an H200 reads."""
    run = replace(
        report,
        precision="bfloat16",
        weights="bfloat16",
        weight_bytes=15_050_000_000,
        codec_bytes=300_000_000,
        temporal_bytes=13_000_000_000,
        row_bytes=1_573_000_000,
        rows=4,
        bound_ms=7.5,
        tick_p50=10.0,
    )
    l4 = CARDS["l4"]
    plain, packed, smallest = (estimate(run, l4, weights) for weights in WEIGHTS)
    speed = 300e9 * 0.896 * 0.75
    assert plain.tick_ms == pytest.approx(1000 * (15.05e9 + 4 * 1.573e9) / speed)
    assert packed.tick_ms == pytest.approx(1000 * (7.375e9 + 0.3e9 + 4 * 1.573e9) / speed)
    assert (plain.rows_in_time, packed.rows_in_time) == (0, int((0.064 * speed - 7.675e9) // 1.573e9))
    assert (plain.rows_in_memory, packed.rows_in_memory) == (3, 8)
    in_four = 6.5e9 * INT4_BYTES + 0.875e9 + 0.3e9
    assert smallest.tick_ms == pytest.approx(1000 * (in_four + 4 * 1.573e9) / speed)
    as_it_is = replace(run, weights="int8")
    assert len({estimate(as_it_is, l4, weights).tick_ms for weights in WEIGHTS}) == 1
    assert "on an L4, weights int8, by bytes, not measured" in str(packed) and str(packed).startswith("estimate ")


def test_runs_become_a_picture(
    folder: Path, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, picture = tmp_path / "runs.csv", tmp_path / "runs.png"
    for rows, tick in ((4, 9.0), (2, 8.0), (2, 7.0)):
        append(table, replace(report, rows=rows, tick_p50=tick))
    ((kind, points),) = runs(table).items()
    assert "nano float32" in kind
    assert [(rows, p50) for rows, p50, _, _ in points] == [(2, 7.0), (4, 9.0)]
    assert bench.main(["--rows", "--csv", str(table), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5_000
    assert bench.main(["--rows", "--plot", str(picture)]) == 2
    assert "name it by --csv" in capsys.readouterr().err
    table.write_text("a,b\n1,2\n", encoding="utf-8")
    assert bench.main(["--rows", "--csv", str(table), "--plot", str(picture)]) == 2
    assert "is no table of runs" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"drawing needs matplotlib: pip install matplotlib, or voipagent\[lab\]"):
        draw(table, picture)
