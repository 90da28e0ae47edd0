"""Weights in 8 bits and 4: what they come back as, what is computed with them, and which form a device gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engine.model.weights import GroupScaled, Packing, RowScaled, Wanted, choose, pack, precision, project, published
from tests.oracle.weights import uniform

PACKINGS: tuple[Packing, ...] = ("int8", "fp8", "int4")

WORST = {"int8": 0.5 / 127, "fp8": 1 / 16, "int4": 0.5 / 7}
"""Half a step, of the greatest magnitude of the row or group; fp8 has three bits behind the leading one."""


def drawn(rows: int = 24, columns: int = 64) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    weight = torch.from_numpy(uniform("weight", (rows, columns))) * torch.logspace(-4, 2, rows)[:, None]
    weight[3] = 0
    return weight


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_weight_is_off_by_more_than_half_a_step_of_its_row(packing: Packing) -> None:
    weight = drawn()
    off = (pack(weight, packing).plain() - weight).abs()
    assert (off <= WORST[packing] * weight.abs().amax(1, keepdim=True) * 1.0001).all()
    assert off.max() > 0
    assert (off[3] == 0).all()


def test_four_bits_are_as_exact_as_their_group_allows() -> None:
    """A row of a great and a small half: the small one keeps its own scale."""
    weight = drawn(8, 256)
    weight[:, 128:] /= 1000
    packed = pack(weight, "int4")
    assert isinstance(packed, GroupScaled) and packed.scale.shape == (8, 2)
    off = (packed.plain() - weight).abs()
    for half in (slice(0, 128), slice(128, 256)):
        assert (off[:, half] <= 0.5 / 7 * weight[:, half].abs().amax(1, keepdim=True) * 1.0001).all()


def test_every_code_of_four_bits_comes_back() -> None:
    weight = torch.arange(-7.0, 8).repeat(3, 16)[:, :128]
    weight[:, 0] = 7
    assert torch.equal(pack(weight, "int4").plain(), weight)


def test_rows_that_do_not_part_into_groups_get_eight_bits() -> None:
    weight = drawn(4, 12)
    packed = pack(weight, "int4")
    assert isinstance(packed, RowScaled) and packed.codes.dtype is torch.int8
    grouped = pack(drawn(4, 88), "int4")
    assert isinstance(grouped, GroupScaled) and grouped.scale.shape == (4, 11)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_product_is_that_of_the_rounded_weight(packing: Packing, dtype: torch.dtype, tolerance: float) -> None:
    packed, x = pack(drawn(), packing), torch.from_numpy(uniform("x", (2, 3, 64)))
    want = x.to(dtype).float() @ packed.plain().T
    got = project(x.to(dtype), packed)
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance * float(want.abs().max()))
    part = project(x.to(dtype), packed, slice(5, 9))
    torch.testing.assert_close(part.float(), want[..., 5:9], rtol=tolerance, atol=tolerance * float(want.abs().max()))


def test_plain_weights_are_multiplied_as_ever() -> None:
    weight, x = drawn(), torch.from_numpy(uniform("x", (3, 64)))
    assert torch.equal(project(x, weight), torch.nn.functional.linear(x, weight))
    assert torch.equal(project(x, weight, slice(2, 4)), torch.nn.functional.linear(x, weight[2:4]))


def test_the_published_form_is_codes_times_scb_over_127() -> None:
    codes, scb = torch.tensor([[127, -64], [1, 0]], dtype=torch.int8), torch.tensor([2.0, 254.0])
    packed = published(codes, scb)
    assert torch.equal(packed.plain(), torch.tensor([[2.0, -64 * 2 / 127], [2.0, 0.0]]))
    assert packed.codes is codes


@pytest.mark.parametrize(("packing", "share"), [("int8", 0.252), ("fp8", 0.252), ("int4", 0.1329)])
def test_packed_weights_are_as_small_as_they_should_be(packing: Packing, share: float) -> None:
    """Of float32, 2048 columns: a byte each and 4 a row, or half a byte each and 4 a group of 128."""
    weight = drawn(16, 2048)
    buffers = pack(weight, packing).buffers()
    assert sum(b.numel() * b.element_size() for b in buffers) <= share * weight.numel() * 4


@pytest.mark.parametrize(
    ("wanted", "device", "bandwidth", "capability", "meant"),
    [
        ("auto", "cpu", None, (0, 0), (torch.float32, "stored")),
        ("auto", "mps", None, (0, 0), (torch.float32, "stored")),
        ("auto", "cuda", 0.3e12, (8, 9), (torch.bfloat16, "int8")),
        ("auto", "cuda", 4.8e12, (9, 0), (torch.bfloat16, "stored")),
        ("bf16", "cuda", 0.3e12, (8, 9), (torch.bfloat16, "none")),
        ("bf16", "cpu", None, (0, 0), (torch.bfloat16, "none")),
        ("int8", "cpu", None, (0, 0), (torch.float32, "int8")),
        ("int4", "cuda", 4.8e12, (9, 0), (torch.bfloat16, "int4")),
        ("fp8", "cuda", 4.8e12, (9, 0), (torch.bfloat16, "fp8")),
    ],
)
def test_the_form_follows_the_setting_and_the_device(
    wanted: Wanted, device: str, bandwidth: float | None, capability: tuple[int, int], meant: tuple[torch.dtype, str]
) -> None:
    assert choose(wanted, device, bandwidth, capability) == meant


@pytest.mark.parametrize(("device", "capability"), [("cpu", (0, 0)), ("mps", (0, 0)), ("cuda", (8, 6))])
def test_fp8_is_refused_where_the_device_has_none(device: str, capability: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"fp8 needs a CUDA card of compute capability 8\.9 or later; int8 runs"):
        choose("fp8", device, 1e12, capability)


@pytest.mark.parametrize(
    ("clock_khz", "bits", "packing"),
    [(6_251_000, 192, "int8"), (10_501_000, 384, "stored"), (2_619_000, 5120, "stored")],
    ids=["L4", "4090", "H100"],
)
def test_a_cards_bandwidth_is_read_from_its_properties(
    monkeypatch: pytest.MonkeyPatch, clock_khz: int, bits: int, packing: str
) -> None:
    card = SimpleNamespace(memory_clock_rate=clock_khz, memory_bus_width=bits, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert precision("auto", torch.device("cuda", 0)) == (torch.bfloat16, packing)
