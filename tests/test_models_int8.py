"""A decoder with int8 matrices: equal to a float32 one that holds the rounded values, from random
weights and from a checkpoint, eager and compiled."""

from pathlib import Path

import pytest
import torch

from prelude.conf.schema import GraphsConfig
from prelude.graphs.pool import LayerPrograms
from prelude.kernels.int8 import dequantize
from prelude.models.decoder import Decoder
from prelude.models.loading import load_decoder, random_decoder
from prelude.models.spec import read_config, read_spec
from prelude.types.plan import ProgramCount
from tests.model_samples import BLOCK, CPU, Paged, edit_config, load, save_checkpoint

STEPS = [[(0, 9)], [(1, 4), (0, 1)], [(0, 3), (1, 1)]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rounded(folder: Path) -> Decoder:
    spec = read_spec(read_config(folder))
    return load_decoder(folder, spec, torch.float32, CPU, lambda phase, done: None, torch.int8)


def widen(decoder: Decoder, source: Decoder) -> None:
    """Give a float32 decoder the values of an int8 one."""
    for into, values in zip(decoder.parameters(), source.parameters(), strict=True):
        into.data.copy_(dequantize(values) if values.dtype is torch.int8 else values)


def logits(decoder: Decoder) -> torch.Tensor:
    paged = Paged(decoder, [list(range(3, 16)), [9, 8, 7, 6, 5]])
    return torch.cat([logits for rows in STEPS for _, _, logits in paged.step(rows)])


@pytest.mark.parametrize("case", ["qwen3", "llama-biases", "olmo2"])
def test_it_computes_with_the_rounded_values(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    decoder, wide = rounded(tmp_path), load(tmp_path)
    exact = logits(wide)
    for name, parameter in decoder.named_parameters():
        is_matrix = parameter.dim() == 2
        assert parameter.dtype is (torch.int8 if is_matrix else torch.float32), name
    widen(wide, decoder)
    torch.testing.assert_close(logits(decoder), logits(wide), atol=1e-4, rtol=1e-4)
    assert not torch.equal(exact, logits(wide))
    assert float((exact - logits(wide)).norm() / exact.norm()) < 0.05


def test_random_weights_are_the_float32_ones_rounded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    spec = read_spec(read_config(tmp_path))
    wide = random_decoder(spec, torch.float32, CPU, seed=3)
    decoder = random_decoder(spec, torch.float32, CPU, seed=3, weights=torch.int8)
    wanted = [parameter.clone() for parameter in wide.parameters()]
    widen(wide, decoder)
    for parameter, value in zip(wide.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.data, value, atol=4e-4, rtol=0)


def test_a_repeated_head_is_compared_as_it_is_stored(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "llama-mha")  # a head of its own
    edit_config(tmp_path, {"tie_word_embeddings": True})
    with pytest.raises(ValueError, match="differs from the embedding"):
        rounded(tmp_path)


def test_a_compiled_layer_takes_int8(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3", num_hidden_layers=1)
    decoder = rounded(tmp_path)
    eager = logits(decoder)
    programs = LayerPrograms(
        GraphsConfig(background=False, cache_dir=str(tmp_path / "cache")),
        decoder.spec,
        dtype=torch.float32,
        weights=torch.int8,
        block_size=BLOCK,
        threads=1,
    )
    assert programs.count == ProgramCount(1, 1)
    decoder.layers_fn = programs
    torch.testing.assert_close(logits(decoder), eager, atol=1e-4, rtol=1e-4)
    programs.close()
