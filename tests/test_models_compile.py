"""The decoder layer under torch.compile: two programs for all layers, token counts and row counts,
no graph breaks, equal to eager, and the KV pool written in place."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.decorators import mark_static, mark_unbacked, maybe_mark_dynamic
from torch._dynamo.testing import CompileCounterWithBackend

from prelude.models.decoder import Decoder, DecoderLayer, LayerFn, run_layer, run_layers
from prelude.models.loading import random_decoder
from prelude.models.spec import read_spec
from tests.model_samples import CPU, SHAPE, Paged

# (sequence, new tokens) of each row: 33, 7, 1, 2, 4 and 1 tokens in one, two and three rows.
STEPS = [[(0, 33)], [(0, 7)], [(0, 1)], [(1, 1), (0, 1)], [(2, 3), (-1, 0), (1, 1)], [(0, 1)]]


@pytest.fixture(autouse=True)
def clean_compiler() -> None:
    torch.set_num_threads(1)
    torch.compiler.reset()


def tiny_decoder(architecture: str = "Qwen3ForCausalLM", **changes: Any) -> Decoder:
    config = {**SHAPE, "architectures": [architecture], "rms_norm_eps": 1e-6, **changes}
    return random_decoder(read_spec(config), torch.float32, CPU, seed=0, scale=0.3)


def logits_of_steps(decoder: Decoder, layer_fn: LayerFn) -> list[Tensor]:
    decoder.layers_fn = partial(run_layers, layer_fn=layer_fn)
    paged = new_pool(decoder)
    addresses = [kv.data_ptr() for kv in paged.kv]
    results = [logits for rows in STEPS for _, _, logits in paged.step(rows)]
    assert addresses == [kv.data_ptr() for kv in paged.kv]
    return results


def new_pool(decoder: Decoder) -> Paged:
    return Paged(decoder, [list(range(43)), [7, 8], [9, 10, 11]], width=6)


def mark_shapes(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv: Tensor,
    cu_q: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    slot_mapping: Tensor,
) -> None:
    """Declare which sizes vary. Rows and table width only pass through to the attention ops, so
    they can be unbacked: one row is no special case and rows == tokens creates no guard."""
    for tensor in (x, cos, sin, slot_mapping):
        maybe_mark_dynamic(tensor, 0)
    for tensor in (cu_q, ctx_lens, block_tables):
        mark_unbacked(tensor, 0)
    mark_unbacked(block_tables, 1)
    mark_static(kv)


def warm(decoder: Decoder, compiled: LayerFn) -> None:
    """Compile both programs (one token, and any number), as an engine would before it serves."""

    def marked(layer: DecoderLayer, *args: Tensor) -> Tensor:
        mark_shapes(*args)
        return compiled(layer, *args)

    decoder.layers_fn = partial(run_layers, layer_fn=marked)
    paged = new_pool(decoder)
    paged.step([(0, 2)])
    paged.step([(0, 1)])


def check(decoder: Decoder, backend: str | Callable[..., Any], tolerance: float = 1e-5) -> None:
    """Compile with two calls, then run every step without another compilation."""
    expected = logits_of_steps(decoder, run_layer)
    compiled = torch.compile(run_layer, fullgraph=True, backend=backend)
    warm(decoder, compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        actual = logits_of_steps(decoder, compiled)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("architecture", "backend", "changes"),
    [
        ("Qwen3ForCausalLM", "aot_eager", {"num_hidden_layers": 12, "head_dim": 16}),
        ("Olmo2ForCausalLM", "eager", {}),
        ("LlamaForCausalLM", "eager", {"attention_bias": True, "mlp_bias": True}),
        ("Phi3ForCausalLM", "eager", {"partial_rotary_factor": 0.5, "sliding_window": 5}),
    ],
)
def test_two_programs_serve_all_layers(
    architecture: str, backend: str, changes: dict[str, Any]
) -> None:
    counter = CompileCounterWithBackend(backend)
    check(tiny_decoder(architecture, **changes), counter)
    assert counter.frame_count == 2


def test_mixed_windows_cost_two_more_programs() -> None:
    counter = CompileCounterWithBackend("eager")
    windows: dict[str, Any] = {
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 5,
    }
    check(tiny_decoder(num_hidden_layers=10, **windows), counter)
    assert counter.frame_count == 4


def test_without_marks_it_still_is_a_handful_of_programs() -> None:
    decoder = tiny_decoder()
    counter = CompileCounterWithBackend("eager")
    expected = logits_of_steps(decoder, run_layer)
    compiled = torch.compile(run_layer, fullgraph=True, dynamic=True, backend=counter)
    torch.testing.assert_close(logits_of_steps(decoder, compiled), expected, rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 4


# Inductor imports parts of torch that TorchScript has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_equals_eager() -> None:
    check(tiny_decoder(), "inductor", tolerance=1e-4)
