"""One decoder layer as an ahead-of-time compiled program: exported with dynamic token, row and
block counts, weights as inputs, so that one small package serves every layer and every step.

Loading a package takes milliseconds and involves no tracing, which is why programs can be swapped
in between two steps of a serving engine (torch.compile would trace for seconds).
"""

import platform
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from prelude.kernels.build import compile_library, load_library
from prelude.models.decoder import DecoderLayer
from prelude.models.spec import ModelSpec

# What the compiled code depends on beside the layer's shape.
_SOURCES = {
    "prelude.models": ("decoder.py",),
    "prelude.kernels": ("fused.py", "layer_ops.py", "attention.py", "linear.py"),
    "prelude.graphs": ("layer_program.py",),
}
_EXAMPLE = {"tokens": 6, "rows": 3, "width": 4, "blocks": 16}


def program_digest(
    spec: ModelSpec,
    window: int,
    dtype: torch.dtype,
    weights: torch.dtype,
    block_size: int,
    threads: int,
) -> str:
    """Names a package: equal digests mean that the compiled code is interchangeable."""
    layer = (
        *(spec.hidden_size, spec.intermediate_size, spec.num_heads, spec.num_kv_heads),
        *(spec.head_dim, spec.norm_eps, spec.rope.rotary_dim),
        *(spec.qkv_bias, spec.o_bias, spec.mlp_bias, spec.qk_norm, spec.norm_placement),
    )
    machine = (torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability())
    text = repr((layer, window, str(dtype), str(weights), block_size, threads, machine))
    source = "".join(
        (files(package) / name).read_text() for package, names in _SOURCES.items() for name in names
    )
    return blake2b((text + source).encode(), digest_size=12).hexdigest()


def compile_layer(
    spec: ModelSpec,
    window: int,
    dtype: torch.dtype,
    weights: torch.dtype,
    block_size: int,
    path: Path,
) -> None:
    """Export and compile one layer to the package ``path`` (must end in .pt2). Takes tens of
    seconds of one core; needs a C++ compiler."""
    device = torch.device("cpu")
    layer = DecoderLayer(spec, window, dtype, device, weights)
    for parameter in layer.parameters():
        parameter.data.zero_()
    inputs, dims = _example(spec, dtype, block_size, device)
    parameters = list(layer.parameters())
    with torch.no_grad():
        exported = torch.export.export(
            _Region(layer),
            (*inputs, parameters),
            dynamic_shapes=(*dims, [None] * len(parameters)),
            strict=False,
        )
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def compile_driver(cache_dir: Path) -> Path:
    """The library that runs programs, for this machine; seconds of one core unless ``cache_dir``
    has it. Raises ``CompileError``."""
    return compile_library(Path(__file__).parent / "layers.cpp", cache_dir)


class LayerProgram:
    """A package, loaded. ``cache_dir`` is where ``compile_driver`` has put its library, or will.

    Raises ``RuntimeError`` if ``path`` is no package of this torch, ``CompileError`` where there is
    no library and no compiler.
    """

    def __init__(self, path: Path, cache_dir: Path) -> None:
        self.handle = _driver(cache_dir).Program(str(path))


class CompiledLayers:
    """The layers of a decoder, each with its program; called like ``models.decoder.run_layers``.
    Python is out of the way, and its lock free, from the first layer to the last."""

    def __init__(
        self, layers: Iterable[torch.nn.Module], programs: Sequence[LayerProgram], cache_dir: Path
    ) -> None:
        handles = [program.handle for program in programs]
        weights = [list(layer.parameters()) for layer in layers]
        self._run = _driver(cache_dir).Layers(handles, weights).run

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, kv: Sequence[Tensor], *step: Tensor
    ) -> Tensor:
        """Runs as many layers as ``kv`` has tensors."""
        output: Tensor = self._run(x, cos, sin, kv, step)
        return output


class _Driver:
    """The library, loaded once: its classes are registered with torch for the whole process."""

    classes: Any = None

    def __call__(self, cache_dir: Path) -> Any:
        if self.classes is None:
            load_library(compile_driver(cache_dir))
            self.classes = torch.classes.prelude
        return self.classes


_driver = _Driver()


class _Region(torch.nn.Module):
    """A layer whose weights are inputs, in the order of ``layer.parameters()``."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: a submodule's weights would become constants
        self._names = [name for name, _ in layer.named_parameters()]

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        slot_mapping: Tensor,
        weights: list[Tensor],
    ) -> Tensor:
        named = dict(zip(self._names, weights, strict=True))
        args = (x, cos, sin, kv, cu_q, ctx_lens, block_tables, slot_mapping)
        output: Tensor = torch.func.functional_call(self._layer[0], named, args)
        return output


def _example(
    spec: ModelSpec, dtype: torch.dtype, block_size: int, device: torch.device
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Example inputs of a layer and which of their dimensions are dynamic."""
    n, rows, width, blocks = _EXAMPLE.values()
    tokens = Dim("tokens", min=1, max=2**20)
    row = Dim("rows", min=1, max=2**16)
    wide = Dim("width", min=1, max=2**20)
    block = Dim("blocks", min=2, max=2**24)
    rotary = spec.rope.rotary_dim

    def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    inputs = (
        torch.zeros(n, spec.hidden_size, dtype=dtype, device=device),
        torch.zeros(n, rotary, device=device),
        torch.zeros(n, rotary, device=device),
        torch.zeros(
            blocks, 2, block_size, spec.num_kv_heads, spec.head_dim, dtype=dtype, device=device
        ),
        ints(rows + 1),
        ints(rows),
        ints(rows, width),
        ints(n, dtype=torch.int64),
    )
    dims: tuple[dict[int, Any], ...] = (
        {0: tokens},
        {0: tokens},
        {0: tokens},
        {0: block},
        {0: row + 1},
        {0: row},
        {0: row, 1: wide},
        {0: tokens},
    )
    return inputs, dims
