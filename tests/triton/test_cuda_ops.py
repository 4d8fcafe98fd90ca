"""Whole decoders on the CUDA kernels, in Triton's interpreter, against the plain ops; and how many
launches a layer takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction

from prelude.kernels.cuda_ops import CudaOps, InvariantOps
from prelude.kernels.layer_ops import LayerOps
from prelude.kernels.triton.attention import attend
from tests.bits import assert_same_bits
from tests.model_samples import Paged, load, save_checkpoint
from tests.test_models_decoder import sequences, tiny_decoder
from tests.triton.conftest import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="on CPU tensors")

STEPS: list[list[tuple[int, int]]] = [
    [(0, 14), (1, 5)],  # more tokens than the kernels of few rows take
    [(0, 1), (1, 1)],
    [(2, 1)],
]
FREE = {"view", "split", "split_with_sizes", "slice", "t", "transpose", "empty", "empty_like"}
FREE |= {"new_empty", "unsqueeze", "_unsafe_view", "reshape", "detach", "select", "alias", "expand"}


def run(folder: Path, ops: LayerOps | None) -> list[Tensor]:
    decoder = load(folder)
    if ops is not None:
        decoder.use_ops(ops)
    paged = Paged(decoder, sequences())
    return [logits for rows in STEPS for _, _, logits in paged.step(rows)]


@pytest.mark.parametrize(
    "case",
    [
        "qwen3",
        "olmo2",
        pytest.param("llama-biases", marks=pytest.mark.slow),
        pytest.param("phi3-partial", marks=pytest.mark.slow),
    ],
)
def test_decoder_on_cuda_ops(case: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, case)
    for got, wanted in zip(run(tmp_path, CudaOps(attend)), run(tmp_path, None), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def test_invariant_ops_give_the_same_bits_alone_batched_and_in_chunks(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    ids = sequences()
    together, alone = (Paged(load(tmp_path), ids) for _ in range(2))
    for paged in (together, alone):
        paged.decoder.use_ops(InvariantOps())
    whole = alone.step([(0, 7)])[0][2]
    parts = [
        logits
        for rows in ([(0, 4), (1, 3)], [(1, 1), (0, 2)], [(1, 1), (0, 1)])
        for index, _, logits in together.step(rows)
        if index == 0
    ]
    assert_same_bits(torch.cat(parts), whole)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Names of what would be launched on a GPU: Triton kernels and torch operations."""
    launches: list[str] = []

    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func._schema.name.split("::")[1]
            if name not in FREE:
                launches.append(name)
            return func(*args, **(kwargs or {}))

    def run_kernel(self: Any, *args: Any, grid: Any, warmup: Any, **kwargs: Any) -> None:
        launches.append(self.fn.__name__)

    patch = pytest.MonkeyPatch()
    patch.setattr(InterpretedFunction, "run", run_kernel)
    with Counter():  # type: ignore[no-untyped-call]
        yield launches
    patch.undo()


@pytest.mark.parametrize(("tokens", "most"), [(1, 8), (16, 9), (20, 9)])
def test_launches_of_a_layer(tokens: int, most: int) -> None:
    decoder = tiny_decoder()
    decoder.use_ops(CudaOps(attend))
    paged = Paged(decoder, sequences())
    paged.step([(0, tokens)])
    x = torch.zeros(tokens, decoder.spec.hidden_size)
    cos, sin = decoder.rotary(torch.arange(tokens))
    meta = paged._meta([(0, 0)], [0] * tokens)
    with counted() as launches:
        decoder.layers[0](x, cos, sin, paged.kv[0], *meta)
    assert len(launches) == most, launches
