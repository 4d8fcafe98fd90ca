"""Every Triton kernel compiles for an H100 or H200, without a GPU and without spilled registers."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from prelude.kernels.triton import (  # noqa: E402
    decode,
    fused,
    linear,
    prefill,
    sampling,
)

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SPECIALISED = [["tt.divisibility", 16]]  # as launches find pointers, strides and widths to be

# Argument types other than bfloat16 pointers (names ending in _ptr) and 32-bit integers.
TYPES = {
    **dict.fromkeys(("ctx_ptr", "cu_q_ptr", "table_ptr", "arrivals_ptr", "keys_ptr"), "*i32"),
    **dict.fromkeys(("slot_ptr", "top_k_ptr", "seeds_ptr", "index_ptr"), "*i64"),
    **dict.fromkeys(("partial_ptr", "stats_ptr", "cos_ptr", "sin_ptr", "logits_ptr"), "*fp32"),
    **dict.fromkeys(("temperature_ptr", "top_p_ptr", "min_p_ptr"), "*fp32"),
    **dict.fromkeys(("scale_log2", "eps"), "fp32"),
    "ids_ptr": "*i32",
}
PLAIN = {
    "window",
    "rows",
    "tokens",
    "parts",
    "table_row",
    "stats_half",
}  # integers that need not divide by 16
HEAD = {"DIM": 128, "DIM_PAD": 128, "BLOCK": 16}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One specialisation, for the shapes of Qwen3 4B."""

    module: ModuleType
    name: str
    constants: dict[str, Any]
    num_warps: int
    num_stages: int = 3
    max_registers: int = 255


DECODE = {"GROUP": 4, "GROUP_PAD": 16, "ROWS_PAD": 32, "PARTS_PAD": 64, "TILE": decode._TILE}
PREFILL = {"GROUP": 4, "TILE_Q": 128, "TILE_K": 64, "ROWS_PAD": 32}
ROPE = {"Q_HEADS": 32, "KV_HEADS": 8, "ROTARY": 128, "HEADS": 8, "NORM": True}
LINEAR = {"INPUTS": 9728, "BIAS": False, "RESIDUAL": True}
FEW = {"ROWS_PAD": 16, "TILE": linear._TILE, "DEPTH": linear._DEPTH}
KERNELS = [
    Kernel(decode, "_decode", DECODE | HEAD, 4, max_registers=128),
    Kernel(prefill, "_prefill", PREFILL | HEAD | {"WINDOWED": False}, 8),
    Kernel(prefill, "_prefill", PREFILL | HEAD | {"WINDOWED": True}, 8),
    Kernel(fused, "_norm", {"DIM": 2560, "DIM_PAD": 4096}, 8, max_registers=64),
    Kernel(fused, "_silu_mul", {"COLUMNS": fused._COLUMNS}, 4, max_registers=64),
    Kernel(fused, "_rope_append", HEAD | ROPE, 4, max_registers=64),
    Kernel(linear, "_gemv", LINEAR | {"TILE": 4, "DEPTH": 512, "SILU_MUL": False}, 2),
    Kernel(linear, "_gemv", LINEAR | {"TILE": 4, "DEPTH": 512, "SILU_MUL": True}, 2),
    Kernel(linear, "_few", LINEAR | FEW | {"SPLIT": 4}, 4, num_stages=4, max_registers=64),
    Kernel(sampling, "_filtered", {"LANES": sampling._LANES}, 16),
]


def compiled(kernel: Kernel) -> Any:
    function = getattr(kernel.module, kernel.name)
    names = function.arg_names
    types = TYPES | ({"out_ptr": "*i64"} if kernel.module is sampling else {})
    signature = {
        name: "constexpr"
        if name in kernel.constants
        else types.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        for name in names
    }
    return triton.compile(
        ASTSource(
            fn=function,
            signature=signature,
            constexprs={(names.index(name),): x for name, x in kernel.constants.items()},
            attrs={
                (i,): SPECIALISED
                for i, name in enumerate(names)
                if signature[name] != "fp32" and name not in {*kernel.constants, *PLAIN}
            },
        ),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": kernel.num_warps, "num_stages": kernel.num_stages},
    )


def disassembled(cubin: bytes, folder: Path, option: str) -> str:
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [str(CUOBJDUMP), option, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_compiles_without_spilling(kernel: Kernel, tmp_path: Path) -> None:
    program = compiled(kernel)
    assert program.metadata.shared <= 227 * 1024
    usage = disassembled(program.asm["cubin"], tmp_path, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    registers, stack = map(int, found.groups())
    assert registers <= kernel.max_registers
    assert stack == 0


MERGING = [kernel for kernel in KERNELS if kernel.name in ("_decode", "_few")]


@pytest.mark.parametrize("kernel", MERGING, ids=lambda kernel: kernel.name)
def test_a_program_arrives_after_all_its_threads_have_stored(kernel: Kernel) -> None:
    """The order on which merging in the same launch rests."""
    ptx = compiled(kernel).asm["ptx"]
    arrival = ptx.index("atom.global.gpu.acq_rel.add")
    stored = ptx.rindex("st.global", 0, arrival)
    assert "bar.sync" in ptx[stored:arrival]
    merged = ptx.index("ld.global.cg", arrival)
    assert "bar.sync" in ptx[arrival:merged]


def test_weights_are_read_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    (gemv,) = (k for k in KERNELS if k.name == "_gemv" and not k.constants["SILU_MUL"])
    sass = disassembled(compiled(gemv).asm["cubin"], tmp_path, "-sass")
    weights = re.findall(r"LDG\.E\.EF(\.\d+)?", sass)  # evict first
    assert weights and set(weights) == {".128"}
    loop = sass[: sass.rindex("LDG.E.EF")]
    assert "BAR" not in loop  # no thread waits for another until the sums


def test_long_prompts_use_the_tensor_cores_of_hopper(tmp_path: Path) -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.name == "_prefill")
    sass = disassembled(compiled(kernel).asm["cubin"], tmp_path, "-sass")
    assert "HGMMA" in sass and "LDGSTS" in sass
