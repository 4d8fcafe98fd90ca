"""Where a prefill's time goes, class by class, in our engine and in eager transformers, beside what
the same matrix products take alone.

Every measurement is a process of its own: ours (compiled layers), the forward pass of transformers,
and its ``generate`` for one token. "Alone" multiplies the model's own weights, one after the other,
into buffers that exist already. Times by class are of torch.profiler, self time; "rest" is what the
wall clock has beyond them.

    python -m benchmarks.profile_prefill [--shape qwen3_0_6b] [--tokens 512] [--out FOLDER]
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.checkpoint import shape_of

# Event names of torch.profiler; the first class with a match counts.
CLASSES = {
    "matrix products": ("prelude::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::linear"),
    "attention": ("prelude::attend", "aten::_scaled_dot_product_flash_attention_for_cpu"),
    "copies": ("prelude::append", "aten::copy_", "aten::cat", "aten::index_copy_", "aten::clone"),
    "element by element": ("aten::",),
}
VARIANTS = ("prelude", "transformers forward", "transformers generate")


@dataclass(frozen=True, slots=True)
class Profile:
    """Milliseconds of one prefill. ``page_faults`` are those of one prefill, of 4 KiB."""

    wall_ms: float
    alone_ms: float
    classes_ms: dict[str, float]
    page_faults: int


def profile(run: Callable[[], object], alone: Callable[[], object]) -> Profile:
    """Best of two walls, products alone between them; then once more under the profiler."""
    import torch

    run()
    walls, alones, faults = [], [], []
    for _ in range(2):
        before = page_faults()
        walls.append(time_ms(run))
        faults.append(page_faults() - before)
        alones.append(time_ms(alone))
    with torch.profiler.profile() as profiler:
        profiled_ms = time_ms(run)
    classes = dict.fromkeys(CLASSES, 0.0)
    for event in profiler.key_averages():
        for name, starts in CLASSES.items():
            if event.key.startswith(starts):
                classes[name] += event.self_cpu_time_total / 1e3
                break
    scale = min(walls) / profiled_ms  # shares of the profiled run, of the fastest one's time
    classes = {name: ms * scale for name, ms in classes.items()}
    return Profile(min(walls), min(alones), classes, min(faults))


def page_faults() -> int:
    """Minor page faults of this process so far."""
    return int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[7])


def time_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def products(weights: list[Any], tokens: int, multiply: Callable[[Any, Any, Any], object]) -> Any:
    """All products of a prefill in order; ``multiply(x, w, y)``, y a buffer that may be used."""
    import torch

    xs = {size: torch.randn(tokens, size) for size in {w.shape[1] for w in weights}}
    ys = {size: torch.zeros(tokens, size) for size in {w.shape[0] for w in weights}}
    return lambda: [multiply(xs[w.shape[1]], w, ys[w.shape[0]]) for w in weights]


def profile_prelude(shape: str, tokens: int, threads: int) -> Profile:
    import torch

    from prelude.conf.schema import GraphsConfig
    from prelude.graphs.pool import LayerPrograms
    from prelude.kernels.attention import AttentionMeta, select_backend
    from prelude.kernels.linear import linear, select_linear
    from prelude.models.loading import random_decoder
    from prelude.models.spec import read_spec

    select_backend("cpu")
    select_linear("cpu")
    spec, block = read_spec(shape_of(shape)), 16
    decoder = random_decoder(spec, torch.float32, torch.device("cpu"), seed=0)
    decoder.layers_fn = LayerPrograms(
        GraphsConfig(background=False),
        spec,
        dtype=torch.float32,
        block_size=block,
        threads=threads,
    )
    width = -(-tokens // block)
    kv_shape = (width + 1, 2, block, spec.num_kv_heads, spec.head_dim)
    kv = [torch.zeros(kv_shape) for _ in range(spec.num_layers)]
    meta = AttentionMeta(
        torch.tensor([0, tokens], dtype=torch.int32),
        torch.tensor([tokens], dtype=torch.int32),
        torch.arange(1, width + 1, dtype=torch.int32)[None],
        torch.arange(block, block + tokens),
    )
    ids = torch.arange(tokens) % spec.vocab_size
    weights = [p.data for layer in decoder.layers for p in layer.parameters() if p.dim() == 2]

    def run() -> object:
        return decoder.logits(decoder(ids, torch.arange(tokens), kv, meta)[-1:])

    return profile(run, products(weights, tokens, lambda x, w, y: linear(x, w)))


def profile_transformers(shape: str, tokens: int, generate: bool) -> Profile:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**shape_of(shape))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = (torch.arange(tokens) % config.vocab_size)[None]
    weights = [
        module.weight.data
        for module in model.model.modules()
        if isinstance(module, torch.nn.Linear)
    ]

    def run() -> object:
        if generate:
            return model.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
        return model(ids, use_cache=True, logits_to_keep=1)

    return profile(run, products(weights, tokens, lambda x, w, y: torch.mm(x, w.t(), out=y)))


def child(variant: str, shape: str, tokens: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        if variant == "prelude":
            found = profile_prelude(shape, tokens, threads)
        else:
            found = profile_transformers(shape, tokens, generate="generate" in variant)
    print(json.dumps(asdict(found)))


def measure_apart(variant: str, shape: str, tokens: int, threads: int) -> Profile:
    """In a child process. Raises ``subprocess.CalledProcessError``."""
    arguments = ["--child", variant, "--shape", shape, f"--tokens={tokens}", f"--threads={threads}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile_prefill", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Profile(**json.loads(done.stdout.splitlines()[-1]))


def render(profiles: dict[str, Profile]) -> str:
    lines = [
        f"| ms | {' | '.join(profiles)} |",
        f"|---|{'---|' * len(profiles)}",
        row("wall clock", [p.wall_ms for p in profiles.values()]),
    ]
    for name in CLASSES:
        lines.append(row(name, [p.classes_ms[name] for p in profiles.values()]))
    rest = [p.wall_ms - sum(p.classes_ms.values()) for p in profiles.values()]
    lines.append(row("rest", rest))
    lines.append(row("the same products alone", [p.alone_ms for p in profiles.values()]))
    shares = [f"{p.alone_ms / p.wall_ms:.0%}" for p in profiles.values()]
    lines.append(f"| share of the wall clock | {' | '.join(shares)} |")
    lines.append(f"| page faults | {' | '.join(str(p.page_faults) for p in profiles.values())} |")
    return "\n".join(lines)


def row(name: str, values: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.0f}' for value in values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen3_0_6b")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="folder for prefill_profile.json")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.shape, args.tokens, args.threads)
        return
    profiles = {
        name: measure_apart(name, args.shape, args.tokens, args.threads) for name in VARIANTS
    }
    print(render(profiles))
    if args.out:
        command = shlex.join(["python", "-m", "benchmarks.profile_prefill", *sys.argv[1:]])
        record = {
            "benchmark": "profile_prefill",
            "command": command,
            "shape": args.shape,
            "tokens": args.tokens,
            "threads": args.threads,
            "profiles": {name: asdict(p) for name, p in profiles.items()},
        }
        (args.out / "prefill_profile.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
