"""Streamed convolutions equal the offline ones of torch, call by call and row by row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.seanet import (
    FEW_POSITIONS,
    CausalConv,
    CausalConvTranspose,
    ConvState,
    ResidualBlock,
    SeanetConfig,
    SeanetDecoder,
    SeanetEncoder,
    initial_state,
)
from tests.oracle.weights import draw_all

TINY = SeanetConfig(dimension=6, n_filters=2, ratios=(3, 2))
HOP = 6  # the product of the ratios
MANY = 2 * FEW_POSITIONS


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    weights = draw_all({name: tuple(value.shape) for name, value in module.state_dict().items()})
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(*flags: bool) -> Tensor:
    return torch.tensor(flags)


def feed(layer: torch.nn.Module, x: Tensor, piece: int) -> Tensor:
    """One layer over x [B, C, T] in calls of `piece` positions."""
    carries, everybody = initial_state(layer, len(x)).carries, torch.ones(len(x), dtype=torch.bool)
    return torch.cat([layer(part, iter(carries), everybody) for part in torch.split(x, piece, dim=2)], dim=2)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 1), (3, 1), (1, 1), (8, 4), (4, 2), (2, 2)])
@pytest.mark.parametrize("strides_a_call", [1, 2, 6, MANY])
def test_a_streamed_convolution_is_the_one_with_zeros_on_the_left(
    kernel: int, stride: int, strides_a_call: int
) -> None:
    layer = drawn(CausalConv(3, 5, kernel, stride))
    x = noise(2, 3, 2 * MANY * stride)
    weight, bias = layer.state_dict().values()
    offline = F.conv1d(F.pad(x, (kernel - stride, 0)), weight, bias, stride)
    torch.testing.assert_close(feed(layer, x, strides_a_call * stride), offline)


@pytest.mark.parametrize("stride", [2, 5, 8])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("positions_a_call", [1, 2, MANY])
def test_a_streamed_transposed_convolution_adds_its_bias_once(
    stride: int, depthwise: bool, positions_a_call: int
) -> None:
    layer = drawn(CausalConvTranspose(4, 4 if depthwise else 3, stride, depthwise=depthwise))
    x = noise(2, 4, 2 * MANY)
    weight, bias = layer.state_dict().values()
    assert bias.abs().min() > 1e-3
    offline = F.conv_transpose1d(x, weight, bias, stride, groups=4 if depthwise else 1)[:, :, :-stride]
    torch.testing.assert_close(feed(layer, x, positions_a_call), offline)


def test_a_residual_block_adds_its_branch_to_what_it_was_given() -> None:
    block = drawn(ResidualBlock(4, 3, 2))
    x = noise(1, 4, 40)
    inner, inner_bias, outer, outer_bias = block.state_dict().values()
    hidden = F.elu(F.conv1d(F.pad(F.elu(x), (2, 0)), inner, inner_bias))
    torch.testing.assert_close(feed(block, x, 8), x + F.conv1d(hidden, outer, outer_bias))


@pytest.mark.parametrize(
    ("network", "x", "unit"),
    [(SeanetEncoder(TINY), noise(2, 1, HOP * 48), HOP), (SeanetDecoder(TINY), noise(2, 6, 48), 1)],
    ids=["encoder", "decoder"],
)
def test_a_network_in_pieces_is_the_network_at_once(network: torch.nn.Module, x: Tensor, unit: int) -> None:
    drawn(network)
    everybody, state = rows(True, True), initial_state(network, 2)
    whole = network(x, initial_state(network, 2), everybody)
    pieces = torch.cat([network(part, state, everybody) for part in torch.split(x, 3 * unit, dim=2)], dim=2)
    torch.testing.assert_close(pieces, whole)
    assert whole.shape == ((2, 6, 48) if unit == HOP else (2, 1, HOP * 48))


def networks() -> list[tuple[torch.nn.Module, Tensor]]:
    """Both networks with six calls for three rows, [6, 3, C, T]."""
    return [(drawn(SeanetEncoder(TINY)), noise(6, 3, 1, 2 * HOP)), (drawn(SeanetDecoder(TINY)), noise(6, 3, 6, 2))]


def copies(state: ConvState) -> list[Tensor]:
    return [carry.clone() for carry in state.carries]


@pytest.mark.parametrize(("network", "calls"), networks(), ids=["encoder", "decoder"])
def test_a_masked_row_stands_still_bit_for_bit(network: torch.nn.Module, calls: Tensor) -> None:
    state = initial_state(network, 3)
    network(calls[0], state, rows(True, True, True))
    before = copies(state)
    network(calls[1], state, rows(True, False, True))
    for carry, old in zip(state.carries, before, strict=True):
        assert torch.equal(carry[1], old[1])
        assert not torch.equal(carry[0], old[0]) and not torch.equal(carry[2], old[2])


@pytest.mark.parametrize(("network", "calls"), networks(), ids=["encoder", "decoder"])
def test_a_row_in_a_batch_hears_only_itself(network: torch.nn.Module, calls: Tensor) -> None:
    together, alone = initial_state(network, 3), initial_state(network, 1)
    masks = [rows(True, True, True), rows(True, False, False), rows(False, True, True)] * 2
    for x, mask in zip(calls, masks, strict=True):
        y = network(x, together, mask)
        if mask[1]:
            torch.testing.assert_close(y[1:2], network(x[1:2], alone, rows(True)))


@pytest.mark.parametrize(("network", "calls"), networks(), ids=["encoder", "decoder"])
def test_a_reset_row_is_as_new_and_the_others_do_not_notice(network: torch.nn.Module, calls: Tensor) -> None:
    everybody, state, other = rows(True, True, True), initial_state(network, 3), initial_state(network, 3)
    for x in calls[:3]:
        network(x, state, everybody)
        network(x, other, everybody)
    state.reset(rows(False, True, False))
    y, undisturbed = network(calls[3], state, everybody), network(calls[3], other, everybody)
    assert torch.equal(y[0], undisturbed[0]) and torch.equal(y[2], undisturbed[2])
    assert torch.equal(y[1], network(calls[3], initial_state(network, 3), everybody)[1])


def test_two_states_of_one_network_are_two_pasts() -> None:
    network = drawn(SeanetEncoder(TINY))
    first, second = initial_state(network, 1), initial_state(network, 1)
    network(noise(1, 1, HOP), first, rows(True))
    assert all(not carry.any() for carry in second.carries)
    assert any(carry.any() for carry in first.carries)
