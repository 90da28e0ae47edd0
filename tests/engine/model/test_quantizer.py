"""The split quantiser against its definition, written out with distances."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.model.quantizer import QuantizerConfig, ResidualQuantizer, SplitQuantizer
from tests.oracle.weights import draw_all

CONFIG = QuantizerConfig(input_dimension=12, dimension=5, n_q=6, bins=16)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def weights(quantizer: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    drawn = draw_all({name: tuple(value.shape) for name, value in quantizer.state_dict().items()}, seed)
    return {name: torch.from_numpy(value) for name, value in drawn.items()}


def build(used: int = 6, seed: int = 0) -> SplitQuantizer:
    quantizer = SplitQuantizer(CONFIG, used)
    quantizer.load_state_dict(weights(quantizer, seed))
    return quantizer


def latents(rows: int = 3, length: int = 40) -> Tensor:
    return 2 * torch.randn(rows, 12, length, generator=torch.Generator().manual_seed(5))


def table(state: dict[str, Tensor], layer: str) -> Tensor:
    book = f"{layer}._codebook."
    return state[book + "embedding_sum"] / state[book + "cluster_usage"][:, None]


def written_out(state: dict[str, Tensor], branch: str, codebooks: int, latent: Tensor) -> Tensor:
    """Codes [B, codebooks, T] of one branch by exact pairwise distances."""
    left = torch.einsum("dc,bct->btd", state[f"{branch}.input_proj.weight"][:, :, 0], latent).double()
    codes = []
    for level in range(codebooks):
        centroids = table(state, f"{branch}.vq.layers.{level}").double()
        codes.append(torch.cdist(left, centroids.expand(len(left), -1, -1)).argmin(2))
        left = left - centroids[codes[-1]]
    return torch.stack(codes, 1)


def test_each_branch_quantises_the_latent_itself_level_by_level() -> None:
    quantizer, latent = build(), latents()
    state = quantizer.state_dict()
    codes = quantizer.encode(latent)
    assert codes.dtype == torch.int64 and codes.shape == (3, 6, 40)
    assert torch.equal(codes[:, :1], written_out(state, "rvq_first", 1, latent))
    assert torch.equal(codes[:, 1:], written_out(state, "rvq_rest", 5, latent))
    assert len(set(codes[:, 5].flatten().tolist())) > 8


def test_the_acoustic_codes_do_not_depend_on_the_semantic_codebook() -> None:
    quantizer, latent = build(), latents()
    before = quantizer.encode(latent)
    other = {name: value for name, value in weights(quantizer, seed=9).items() if name.startswith("rvq_first")}
    quantizer.load_state_dict({**quantizer.state_dict(), **other})
    after = quantizer.encode(latent)
    assert not torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1:], before[:, 1:])


def test_of_equally_near_centroids_the_first_is_chosen() -> None:
    quantizer = build()
    state = quantizer.state_dict()
    for name, value in state.items():
        if name.endswith(("embedding_sum", "cluster_usage")):
            value[8:] = value[:8]
    quantizer.load_state_dict(state)
    assert int(quantizer.encode(latents()).max()) < 8


@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_prefix_decodes_to_the_sum_of_its_centroids(count: int) -> None:
    quantizer = build()
    state = quantizer.state_dict()
    codes = quantizer.encode(latents())[:, :count]
    expected = torch.einsum(
        "cd,btd->bct",
        state["rvq_first.output_proj.weight"][:, :, 0],
        table(state, "rvq_first.vq.layers.0")[codes[:, 0]],
    )
    for level in range(count - 1):
        centroids = table(state, f"rvq_rest.vq.layers.{level}")[codes[:, level + 1]]
        expected += torch.einsum("cd,btd->bct", state["rvq_rest.output_proj.weight"][:, :, 0], centroids)
    torch.testing.assert_close(quantizer.decode(codes), expected)


def test_fewer_codebooks_give_the_same_first_codes() -> None:
    latent = latents()
    assert torch.equal(build(used=3).encode(latent), build().encode(latent)[:, :3])


def test_a_centroid_that_was_never_used_is_divided_by_the_least_usage() -> None:
    quantizer = build()
    state = quantizer.state_dict()
    state["rvq_first.vq.layers.0._codebook.cluster_usage"][3] = 0
    quantizer.load_state_dict(state)
    sums = state["rvq_first.vq.layers.0._codebook.embedding_sum"]
    torch.testing.assert_close(quantizer.rvq_first.centroids[0, 3], sums[3] / 1e-5)


@pytest.mark.parametrize("assign", [False, True])
def test_loading_after_use_makes_the_centroids_anew(assign: bool) -> None:
    parent = torch.nn.ModuleDict({"quantizer": build()})
    latent, quantizer = latents(), parent["quantizer"]
    assert isinstance(quantizer, SplitQuantizer)
    before = quantizer.encode(latent)
    parent.load_state_dict(
        {f"quantizer.{name}": value for name, value in weights(quantizer, seed=2).items()}, assign=assign
    )
    after = quantizer.encode(latent)
    assert torch.equal(after, build(seed=2).encode(latent)) and not torch.equal(after, before)
    torch.testing.assert_close(quantizer.decode(after), build(seed=2).decode(after))


def test_whoever_writes_into_the_buffers_asks_for_the_centroids() -> None:
    quantizer = build()
    for name, value in weights(quantizer, seed=2).items():
        quantizer.state_dict()[name].copy_(value)
    quantizer.rvq_first.prepare()
    quantizer.rvq_rest.prepare()
    assert torch.equal(quantizer.encode(latents()), build(seed=2).encode(latents()))


def test_loaded_on_the_meta_device_it_computes_like_any_other() -> None:
    with torch.device("meta"):
        quantizer = SplitQuantizer(CONFIG, 6)
    quantizer.load_state_dict(weights(quantizer), assign=True)
    assert torch.equal(quantizer.encode(latents()), build().encode(latents()))


def test_the_centroids_are_no_part_of_the_file() -> None:
    assert all("centroids" not in name and "half_norms" not in name for name in build().state_dict())


def test_markers_of_masked_rows_stay_inside_of_the_table() -> None:
    quantizer = build()
    codes = torch.tensor([-2, -1, 0, 15, 16, 2048]).repeat(1, 6, 1)
    torch.testing.assert_close(quantizer.decode(codes), quantizer.decode(codes.clamp(0, 15)), rtol=0, atol=0)


@pytest.mark.parametrize("used", [0, 1, 7])
def test_codebooks_that_are_not_there_are_refused(used: int) -> None:
    with pytest.raises(ValueError, match=f"^{used} codebooks .* has 6"):
        SplitQuantizer(CONFIG, used)


def test_a_lone_chain_works_by_itself() -> None:
    chain = ResidualQuantizer(CONFIG, 4, 2)
    chain.load_state_dict(weights(chain))
    codes = chain.encode(latents())
    assert codes.shape == (3, 2, 40) and chain.decode(codes).shape == (3, 12, 40)
