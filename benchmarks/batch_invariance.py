"""What ``runner.batch_invariant`` costs on CPU: decoder layers with and without, taking turns.

Linears are invariant anyway; attention gives up its streaming kernel for few tokens and cutting
long contexts into parts. Compiled layers, minima, milliseconds for all layers of the shape.

    python -m benchmarks.batch_invariance [--threads 1] [--rounds 12]
"""

import argparse
import time
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.peers.checkpoint import shape_of
from prelude.conf.schema import GraphsConfig
from prelude.graphs.pool import LayerPrograms
from prelude.kernels.attention import AttentionMeta, select_backend
from prelude.kernels.linear import select_linear
from prelude.models.loading import random_decoder
from prelude.models.spec import read_spec

NUM_LAYERS = 4  # measured, of the shape's
BLOCK = 16
CASES = ((1, 1, 128), (1, 1, 1024), (16, 1, 128), (16, 1, 1024), (1, 16, 1024), (1, 512, 512))


def step(rows: int, new: int, context: int) -> tuple[Tensor, AttentionMeta]:
    """Positions and metadata of ``rows`` sequences with ``new`` tokens each."""
    width = -(-context // BLOCK)
    tables = torch.arange(1, 1 + width * rows, dtype=torch.int32).view(rows, width)
    positions = torch.arange(context - new, context)
    slots = tables[:, positions // BLOCK].long() * BLOCK + positions % BLOCK
    meta = AttentionMeta(
        torch.arange(0, rows * new + 1, new, dtype=torch.int32),
        torch.full((rows,), context, dtype=torch.int32),
        tables,
        slots.view(-1),
    )
    return positions.repeat(rows), meta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--shape", default="qwen3_0_6b")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    select_backend("cpu")
    select_linear("cpu")
    full = read_spec(shape_of(args.shape))
    spec = replace(full, num_layers=NUM_LAYERS, windows=full.windows[:NUM_LAYERS])
    decoder = random_decoder(spec, torch.float32, torch.device("cpu"), seed=0)
    decoder.layers_fn = LayerPrograms(
        GraphsConfig(background=False),
        spec,
        dtype=torch.float32,
        block_size=BLOCK,
        threads=args.threads,
    )
    blocks = 1 + max(rows * -(-context // BLOCK) for rows, _, context in CASES)
    kv_shape = (blocks, 2, BLOCK, spec.num_kv_heads, spec.head_dim)
    kv = [torch.randn(kv_shape) for _ in range(NUM_LAYERS)]
    print("| rows x new, context | ms | batch-invariant ms | price |\n|---|---|---|---|")
    for rows, new, context in CASES:
        positions, meta = step(rows, new, context)
        best = [float("inf")] * 2
        for _ in range(args.rounds):
            for invariant in (False, True):
                select_backend("cpu", invariant=invariant)
                start = time.perf_counter()
                with torch.inference_mode():
                    decoder(positions, positions, kv, meta)
                best[invariant] = min(best[invariant], time.perf_counter() - start)
        plain, same = (ms * 1e3 * full.num_layers / NUM_LAYERS for ms in best)
        print(
            f"| {rows} x {new}, {context} | {plain:.1f} | {same:.1f} | {same / plain - 1:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
