"""Every family against transformers on the same files, the way the engine runs it: ragged paged
batches, prompts in chunks, then decode steps, in one launch and in many."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prelude.kernels.attention import select_backend
from prelude.models.decoder import Decoder, DecoderLayer, run_layer, run_layers
from prelude.models.loading import random_decoder
from prelude.models.spec import read_spec
from tests.model_samples import (
    CASES,
    CPU,
    SHAPE,
    Paged,
    edit_config,
    load,
    reference,
    reference_logits,
    save_checkpoint,
    write_old_style,
)

TOLERANCE = 1e-4
LENGTHS = (26, 12, 6)
# Three prompts in chunks of odd sizes with decode rows between them, then decode steps; one row
# is padding. (sequence, new tokens)
STEPS: list[list[tuple[int, int]]] = [
    [(0, 10), (1, 8)],
    [(1, 1), (0, 13), (2, 3)],
    [(0, 1), (1, 1), (2, 1)],
    [(2, 1), (-1, 0), (1, 1), (0, 1)],
    [(0, 1)],
    [(1, 1), (2, 1)],
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def sequences(seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    vocab = int(SHAPE["vocab_size"])
    return [torch.randint(vocab, (n,), generator=generator).tolist() for n in LENGTHS]


def worst_difference(decoder: Decoder, expected: list[Tensor], ids: list[list[int]]) -> float:
    paged = Paged(decoder, ids)
    worst = 0.0
    for rows in STEPS:
        for index, first, logits in paged.step(rows):
            wanted = expected[index][first : first + logits.shape[0]]
            worst = max(worst, float((logits - wanted).abs().max()))
    assert paged.done == list(LENGTHS)
    return worst


@pytest.mark.parametrize("case", CASES)
def test_chunked_prefill_and_decode_equal_transformers(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    model = reference(tmp_path)
    ids = sequences()
    expected = [reference_logits(model, seq) for seq in ids]
    decoder = load(tmp_path)
    assert worst_difference(decoder, expected, ids) < TOLERANCE
    assert sum(p.numel() for p in decoder.parameters()) == decoder.spec.num_params


@pytest.mark.parametrize(
    "case", ["llama-llama3", "llama-linear", "llama-yarn", "qwen3", "phi3-partial"]
)
def test_configurations_from_before_transformers_5(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    new_spec = load(tmp_path).spec
    write_old_style(tmp_path)
    decoder = load(tmp_path)
    assert decoder.spec == new_spec
    model = reference(tmp_path)
    ids = sequences(seed=4)
    expected = [reference_logits(model, seq) for seq in ids]
    assert worst_difference(decoder, expected, ids) < TOLERANCE


def test_llama2_configuration_without_kv_heads_and_rope_keys(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "llama-mha")
    edit_config(
        tmp_path,
        {"torch_dtype": "float16", "pretraining_tp": 1},
        removed=("num_key_value_heads", "rope_parameters", "dtype", "head_dim"),
    )
    decoder = load(tmp_path)
    assert decoder.spec.num_kv_heads == 4
    assert decoder.spec.dtype == "float16"
    ids = sequences(seed=5)
    expected = [reference_logits(reference(tmp_path), seq) for seq in ids]
    assert worst_difference(decoder, expected, ids) < TOLERANCE


def test_windows_change_the_result(tmp_path: Path) -> None:
    """Guards the fixtures: a prompt longer than the window must tell the two apart."""
    save_checkpoint(tmp_path, "mistral-window")
    ids = sequences()
    expected = [reference_logits(reference(tmp_path), seq) for seq in ids]
    edit_config(tmp_path, {"sliding_window": None})
    assert worst_difference(load(tmp_path), expected, ids) > 0.1


def test_bfloat16_stays_bfloat16_and_close(tmp_path: Path) -> None:
    select_backend("torch")  # the other backend computes in float32
    save_checkpoint(tmp_path, "qwen3")
    ids = sequences()
    exact, rounded = Paged(load(tmp_path), ids), Paged(load(tmp_path, torch.bfloat16), ids)
    assert rounded.decoder.embedding.dtype == torch.bfloat16
    for rows in STEPS[:2]:
        for (_, _, a), (_, _, b) in zip(exact.step(rows), rounded.step(rows), strict=True):
            assert b.dtype == torch.float32
            assert torch.nn.functional.cosine_similarity(a, b).min() > 0.99


def tiny_decoder(**changes: object) -> Decoder:
    config = {
        **SHAPE,
        "architectures": ["Qwen3ForCausalLM"],
        "rms_norm_eps": 1e-6,
        "head_dim": 8,
        **changes,
    }
    return random_decoder(read_spec(config), torch.float32, CPU, seed=0, scale=0.3)


def test_layer_fn_is_called_once_per_layer_with_its_own_kv() -> None:
    decoder = tiny_decoder()
    paged = Paged(decoder, sequences())
    before = paged.step([(0, 4)])[0][2]
    calls: list[tuple[DecoderLayer, Tensor]] = []

    def spy(layer: DecoderLayer, *args: Tensor) -> Tensor:
        calls.append((layer, args[3]))
        return run_layer(layer, *args)

    decoder.layers_fn = partial(run_layers, layer_fn=spy)
    again = Paged(decoder, sequences())
    after = again.step([(0, 4)])[0][2]
    assert torch.equal(before, after)
    assert [layer for layer, _ in calls] == list(decoder.layers)
    assert all(seen is own for (_, seen), own in zip(calls, again.kv, strict=True))


def test_only_the_slots_of_new_tokens_are_written() -> None:
    paged = Paged(tiny_decoder(), sequences())
    before = [kv.clone() for kv in paged.kv]
    paged.step([(0, 3), (1, 1)])
    for old, new in zip(before, paged.kv, strict=True):
        changed = (old != new).any(dim=-1).any(dim=-1).any(dim=1)  # [blocks, block]
        assert int(changed.sum()) == 4
        assert not changed[0].any()


def test_a_kv_list_of_the_wrong_length_is_refused() -> None:
    paged = Paged(tiny_decoder(), sequences())
    paged.kv.pop()
    with pytest.raises(ValueError, match="shorter"):
        paged.step([(0, 1)])


def test_tied_head_shares_the_embedding() -> None:
    tied, untied = tiny_decoder(tie_word_embeddings=True), tiny_decoder()
    assert tied.head is tied.embedding
    assert untied.head is not untied.embedding
    assert "lm_head" not in dict(tied.named_parameters())


def test_windows_are_per_layer() -> None:
    decoder = tiny_decoder(use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert [layer.window for layer in decoder.layers] == [0, 0, 4]


def test_nothing_asks_for_gradients() -> None:
    assert not any(parameter.requires_grad for parameter in tiny_decoder().parameters())
