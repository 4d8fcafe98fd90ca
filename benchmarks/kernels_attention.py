"""Our paged attention beside torch's SDPA on dense tensors: the same shapes, interleaved, minima.

SDPA gets its keys and values gathered, contiguous and (for decode) without a mask, so it is a
roof and not a peer: a real engine would have to gather first. Prints a Markdown table, then JSON.

    python -m benchmarks.kernels_attention [--threads 1 2] [--repeats 30]
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels.attention import AttentionMeta, attend, select_backend

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """``rows`` equal rows of ``num_new`` tokens on a context of ``ctx``."""

    rows: int
    num_new: int
    ctx: int
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128


@dataclass(frozen=True, slots=True)
class Result:
    shape: Shape
    threads: int
    ours_ms: float
    sdpa_ms: float
    gflops: float  # of ours, counting visible pairs only
    gbytes_s: float  # of ours, reading each key and value once


SHAPES = (
    Shape(1, 512, 512),
    Shape(1, 512, 512, 32, 8),
    Shape(1, 512, 512, 16, 16, 64),
    Shape(1, 128, 128),
    Shape(1, 128, 2048),
    Shape(1, 2048, 2048),
    Shape(1, 1, 512),
    Shape(1, 1, 4096),
    Shape(1, 1, 4096, 16, 1),
    Shape(1, 1, 4096, 32, 4),
    Shape(16, 1, 512),
    Shape(16, 1, 2048),
)


def make_case(shape: Shape) -> tuple[Tensor, Tensor, AttentionMeta]:
    generator = torch.Generator().manual_seed(0)
    width = -(-shape.ctx // BLOCK)
    num_blocks = 1 + shape.rows * width
    kv = torch.randn(num_blocks, 2, BLOCK, shape.kv_heads, shape.head_dim, generator=generator)
    q = torch.randn(shape.rows * shape.num_new, shape.heads, shape.head_dim, generator=generator)
    tables = torch.randperm(num_blocks - 1, generator=generator).view(shape.rows, width) + 1
    meta = AttentionMeta(
        cu_q=torch.arange(shape.rows + 1, dtype=torch.int32) * shape.num_new,
        ctx_lens=torch.full((shape.rows,), shape.ctx, dtype=torch.int32),
        block_tables=tables.int(),
        slot_mapping=torch.empty(0, dtype=torch.int64),
    )
    return q, kv, meta


def run_sdpa(shape: Shape, q: Tensor, kv: Tensor, meta: AttentionMeta) -> Callable[[], Tensor]:
    """Prepare dense tensors; the call returned is SDPA alone. Rows are a batch dimension."""
    pages = kv[meta.block_tables.flatten()].view(shape.rows, -1, *kv.shape[1:])
    dense = pages.permute(2, 0, 4, 1, 3, 5).flatten(3, 4)[..., : shape.ctx, :].contiguous()
    queries = q.view(shape.rows, shape.num_new, *q.shape[1:]).transpose(1, 2).contiguous()
    mask = None
    if 1 < shape.num_new < shape.ctx:
        mask = torch.ones(shape.num_new, shape.ctx, dtype=torch.bool)
        mask = mask.tril(shape.ctx - shape.num_new)
    causal = shape.num_new == shape.ctx
    gqa = shape.heads != shape.kv_heads
    return lambda: F.scaled_dot_product_attention(
        queries, dense[0], dense[1], attn_mask=mask, is_causal=causal, enable_gqa=gqa
    )


def measure(shape: Shape, threads: int, repeats: int) -> Result:
    torch.set_num_threads(threads)
    q, kv, meta = make_case(shape)
    out = torch.empty_like(q)
    scale = shape.head_dim**-0.5
    sdpa = run_sdpa(shape, q, kv, meta)
    ours_ms, sdpa_ms = [], []
    for _ in range(repeats):
        ours_ms.append(_time_ms(lambda: attend(q, kv, meta, scale, out)))
        sdpa_ms.append(_time_ms(sdpa))
    expected = sdpa().transpose(1, 2).reshape_as(out)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    pairs = shape.rows * sum(range(shape.ctx - shape.num_new + 1, shape.ctx + 1))
    flops = 4.0 * pairs * shape.heads * shape.head_dim
    num_bytes = 8.0 * shape.rows * shape.ctx * shape.kv_heads * shape.head_dim
    best = min(ours_ms)
    return Result(shape, threads, best, min(sdpa_ms), flops / best / 1e6, num_bytes / best / 1e6)


def _time_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def render(results: list[Result]) -> str:
    lines = [
        "| rows x new, context | heads/kv x dim | threads "
        "| ours ms | SDPA ms | ours GFLOP/s | GB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        s = r.shape
        lines.append(
            f"| {s.rows} x {s.num_new}, {s.ctx} | {s.heads}/{s.kv_heads} x {s.head_dim} "
            f"| {r.threads} | {r.ours_ms:.3f} | {r.sdpa_ms:.3f} | {r.gflops:.0f} "
            f"| {r.gbytes_s:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    backend = select_backend("auto")
    results = [measure(s, t, args.repeats) for s in SHAPES for t in args.threads]
    print(render(results))
    record = {
        "benchmark": "kernels_attention",
        "backend": backend,
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "repeats": args.repeats,
        "results": [asdict(r) for r in results],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
