"""What ``benchmarks/kernels_triton.py`` runs: each kernel at a shape, its peer, bytes and flops.

Triton is imported when a case is made, so that ``--help`` and tests need none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
CACHE_BYTES = 200e6  # inputs are copied until they are larger than this: three times an H200's L2

Call = Callable[[int], Tensor]  # of one of the copies of the inputs


@dataclass(frozen=True, slots=True)
class Case:
    kernel: str
    shape: str
    ours: Call
    plain: Call  # slow and obvious
    peer: Call | None  # what to be as fast as
    peer_name: str
    copies: int
    num_bytes: float  # that must be read or written
    flops: float = 0.0
    tolerance: float = 2e-2


@dataclass(frozen=True, slots=True)
class Model:
    """What of a decoder's shape the kernels see."""

    hidden: int = 2560
    inter: int = 9728
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 151936
    dtype: torch.dtype = torch.bfloat16


SMALL = Model(64, 96, 4, 2, 32, 300, torch.float16)  # the interpreter's bfloat16 is not exact


def small_cases(device: torch.device) -> Iterator[Case]:
    yield decode(SMALL, device, 2, 70)
    yield prefill(SMALL, device, 2, 20, 30)
    yield linear(SMALL, device, 1, 96, 64)
    yield linear(SMALL, device, 3, 96, 64)
    yield from fused(SMALL, device, 3)
    yield sampling(SMALL, device, 2)


def all_cases(device: torch.device) -> Iterator[Case]:
    model = Model()
    for rows, ctx in [(1, 1024), (1, 8192), (8, 1024), (32, 1024), (32, 8192), (128, 1024)]:
        yield decode(model, device, rows, ctx)
    for rows, new, ctx in [(1, 512, 512), (16, 512, 512), (1, 512, 8192), (1, 8192, 8192)]:
        yield prefill(model, device, rows, new, ctx)
    projections = [(6144, 2560), (2560, 4096), (19456, 2560), (2560, 9728), (151936, 2560)]
    for rows in (1, 2, 4, 8, 16):
        for outputs, inputs in projections:
            yield linear(model, device, rows, outputs, inputs)
    for tokens in (1, 32, 512, 8192):
        yield from fused(model, device, tokens)
    for rows in (1, 32, 128):
        yield sampling(model, device, rows)


def _copies(num_bytes: float, device: torch.device) -> int:
    return 1 if device.type == "cpu" else max(1, min(64, int(CACHE_BYTES / num_bytes)))


def _normal(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device, dtype=dtype)


def _pools(model: Model, device: torch.device, rows: int, ctx: int) -> tuple[list[Tensor], Tensor]:
    """Copies of one layer's KV, and block tables [rows, width] in random order."""
    width = -(-ctx // BLOCK)
    size = 2 * rows * ctx * model.kv_heads * model.head_dim * 2.0
    shape = (1 + rows * width, 2, BLOCK, model.kv_heads, model.head_dim)
    pools = [_normal(device, model.dtype, *shape) for _ in range(_copies(size, device))]
    tables = torch.randperm(rows * width, device=device).view(rows, width) + 1
    return pools, tables.int()


def decode(model: Model, device: torch.device, rows: int, ctx: int) -> Case:
    return _attention(model, device, rows, 1, ctx)


def prefill(model: Model, device: torch.device, rows: int, new: int, ctx: int) -> Case:
    return _attention(model, device, rows, new, ctx)


def _attention(model: Model, device: torch.device, rows: int, new: int, ctx: int) -> Case:
    from prelude.kernels import attention_torch
    from prelude.kernels.triton.attention import attend

    pools, tables = _pools(model, device, rows, ctx)
    q = _normal(device, model.dtype, rows * new, model.heads, model.head_dim)
    cu_q = torch.arange(rows + 1, dtype=torch.int32, device=device) * new
    ctx_lens = torch.full((rows,), ctx, dtype=torch.int32, device=device)
    out = torch.empty_like(q)
    scale = model.head_dim**-0.5

    def ours(copy: int) -> Tensor:
        attend(q, pools[copy], cu_q, ctx_lens, tables, scale, 0, out)
        return out

    def plain(copy: int) -> Tensor:
        exact = torch.empty(q.shape, dtype=torch.float64)
        moved = (q.cpu().double(), pools[copy].cpu().double(), cu_q.cpu(), ctx_lens.cpu())
        attention_torch.attend(*moved, tables.cpu(), scale, 0, exact)
        return exact.to(q.device)

    pairs = rows * sum(range(ctx - new + 1, ctx + 1))
    return Case(
        "decode" if new == 1 else "prefill",
        f"{rows} x {new} on {ctx}",
        ours,
        plain,
        _flashinfer(model, rows, new, q, pools, tables, ctx_lens),
        "FlashInfer fa2",
        len(pools),
        rows * ctx * model.kv_heads * model.head_dim * 2 * q.element_size(),
        4.0 * pairs * model.heads * model.head_dim,
    )


def _flashinfer(
    model: Model,
    rows: int,
    new: int,
    q: Tensor,
    pools: list[Tensor],
    tables: Tensor,
    ctx_lens: Tensor,
) -> Call | None:
    """FlashInfer's paged prefill kernel, which also is its tensor-core decode; None without it."""
    if q.device.type != "cuda":
        return None
    try:
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper
    except ImportError:
        return None
    workspace = torch.zeros(256 << 20, dtype=torch.uint8, device=q.device)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend="fa2")
    width = tables.shape[1]
    steps = torch.arange(rows + 1, dtype=torch.int32)
    wrapper.plan(
        steps * new,
        steps * width,
        tables.flatten(),
        (ctx_lens.cpu() - 1) % BLOCK + 1,
        model.heads,
        model.kv_heads,
        model.head_dim,
        BLOCK,
        causal=True,
        q_data_type=q.dtype,
        kv_data_type=q.dtype,
    )
    out = torch.empty_like(q)
    return lambda copy: wrapper.run(q, pools[copy], out=out)


def linear(model: Model, device: torch.device, rows: int, outputs: int, inputs: int) -> Case:
    from prelude.kernels.triton.linear import gemv, linear_few

    x = _normal(device, model.dtype, rows, inputs)
    size = outputs * inputs * x.element_size()
    weights = [
        _normal(device, model.dtype, outputs, inputs) / inputs**0.5
        for _ in range(_copies(size, device))
    ]
    call = gemv if rows == 1 else linear_few
    return Case(
        "linear",
        f"{rows} x {inputs} -> {outputs}",
        lambda copy: call(x, weights[copy]),
        lambda copy: x.double() @ weights[copy].double().T,
        lambda copy: F.linear(x, weights[copy]),
        "cuBLAS",
        len(weights),
        size,
        2.0 * rows * outputs * inputs,
    )


def fused(model: Model, device: torch.device, tokens: int) -> Iterator[Case]:
    from prelude.kernels import fused as plain
    from prelude.kernels.triton import fused as ours

    def case(kernel: str, call: Call, reference: Call, num_bytes: float, copies: int) -> Case:
        peer = reference if device.type == "cuda" else None
        return Case(kernel, f"{tokens} tokens", call, reference, peer, "torch", copies, num_bytes)

    def several(columns: int) -> list[Tensor]:
        size = tokens * columns * model.dtype.itemsize
        return [_normal(device, model.dtype, tokens, columns) for _ in range(_copies(size, device))]

    x, gates = several(model.hidden), several(2 * model.inter)
    weight = _normal(device, model.dtype, model.hidden)
    row = tokens * model.dtype.itemsize
    yield case(
        "rms_norm",
        lambda copy: ours.rms_norm(x[copy], weight, 1e-6),
        lambda copy: plain.rms_norm(x[copy], weight, 1e-6),
        2.0 * row * model.hidden,
        len(x),
    )
    yield case(
        "silu_mul",
        lambda copy: ours.silu_mul(gates[copy]),
        lambda copy: plain.silu_mul(gates[copy]),
        3.0 * row * model.inter,
        len(gates),
    )
    sizes = [model.heads, model.kv_heads, model.kv_heads]
    qkv = several(sum(sizes) * model.head_dim)
    (kv, *_), _ = _pools(model, device, 1, tokens)
    slots = torch.arange(tokens, device=device) + BLOCK
    turns = torch.randn(tokens, model.head_dim, device=device)
    cos, sin, head = turns.cos(), turns.sin(), weight.new_ones(model.head_dim)

    def split(copy: int) -> list[Tensor]:
        return list(qkv[copy].view(tokens, -1, model.head_dim).split_with_sizes(sizes, dim=1))

    def rope(copy: int) -> Tensor:
        q, k, v = split(copy)
        return ours.rope_append(q, k, v, (head, head), 1e-6, cos, sin, kv, slots)

    def plain_rope(copy: int) -> Tensor:
        q, k, v = split(copy)
        q, k = (
            plain.apply_rope(plain.rms_norm(y, head, 1e-6), cos, sin).to(q.dtype) for y in (q, k)
        )
        flat = kv.view(-1, 2, BLOCK, model.kv_heads, model.head_dim)
        flat[slots // BLOCK, 0, slots % BLOCK] = k
        flat[slots // BLOCK, 1, slots % BLOCK] = v
        return q

    yield case("rope_append", rope, plain_rope, 2.0 * row * qkv[0].shape[1], len(qkv))


def sampling(model: Model, device: torch.device, rows: int) -> Case:
    from prelude.kernels.sampling_static import filtered_static
    from prelude.kernels.triton.sampling import filtered

    size = rows * model.vocab * 4.0
    logits = [
        _normal(device, torch.float32, rows, model.vocab) * 3 for _ in range(_copies(size, device))
    ]
    columns = {"temperature": 0.8, "top_p": 0.95, "min_p": 0.0}
    arguments = {n: torch.full((rows,), x, device=device) for n, x in columns.items()}
    arguments["top_k"] = torch.full((rows,), 50, device=device)
    arguments["seeds"] = arguments["index"] = torch.arange(rows, device=device)
    return Case(
        "sampling",
        f"{rows} x {model.vocab}",
        lambda copy: filtered(logits[copy], **arguments),
        lambda copy: filtered_static(logits[copy], **arguments),
        (lambda copy: filtered_static(logits[copy], **arguments))
        if device.type == "cuda"
        else None,
        "torch, static",
        len(logits),
        size,
    )
