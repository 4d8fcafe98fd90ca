"""The roof of this machine, measured in the same run as what is held against it: how fast memory
is read and how fast a dense matrix product is, on the same device, threads and dtype. On CUDA a
copy within the device stands for reading, with both directions counted: what its memory sustains.

``python -m prelude.bench.probe`` prints one record as JSON; benchmarks that must not carry torch's
threads themselves run it as a process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from prelude.bench import machine
from prelude.bench.result import Probe

READ_BYTES = {"cpu": 2**29, "cuda": 2**31}  # beyond every cache
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
TIMEOUT_S = 300


class Roof:
    """What is timed: reading memory, and a dense product."""

    def __init__(self, device: str, dtype: str) -> None:
        import torch

        from prelude.kernels import pages

        self.synchronize: Callable[[], object] = (
            torch.cuda.synchronize if device == "cuda" else (lambda: None)
        )
        # In huge pages, as weights are: reading small ones is slower, and no roof.
        count = READ_BYTES[device] // 4
        data = pages.empty((count,), torch.float32, torch.device(device)).fill_(1)
        half, other = data.chunk(2)
        size = GEMM_SIZE[device]
        left = torch.rand(size, size, device=device).to(getattr(torch, dtype))
        self.read: Callable[[], object] = (
            (lambda: other.copy_(half)) if device == "cuda" else (lambda: data.sum())
        )
        self.multiply: Callable[[], object] = lambda: left @ left
        self._read_gb = data.numel() * data.element_size() / 1e9
        self._gemm_gflop = 2 * size**3 / 1e9

    def rates(self, repeats: int) -> tuple[float, float]:
        """GB/s and GFLOP/s: of each, the best of ``repeats`` after one that does not count."""
        read_s = _best_s(self.read, self.synchronize, repeats)
        gemm_s = _best_s(self.multiply, self.synchronize, repeats)
        return self._read_gb / read_s, self._gemm_gflop / gemm_s

    def of_now(self, probe: Probe) -> Probe:
        """``probe`` with the rates of this moment, each measured once."""
        read_gb_s = self._read_gb / _once_s(self.read, self.synchronize)
        gemm_gflop_s = self._gemm_gflop / _once_s(self.multiply, self.synchronize)
        return msgspec.structs.replace(probe, read_gb_s=read_gb_s, gemm_gflop_s=gemm_gflop_s)


def probe(device: str, threads: int, dtype: str, repeats: int = 5) -> Probe:
    """Measure here. ``device`` is cpu or cuda; ``dtype`` is that of the matrix product."""
    import torch

    quiet = machine.quietness()
    torch.set_num_threads(threads)
    read_gb_s, gemm_gflop_s = Roof(device, dtype).rates(repeats)
    return Probe(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        threads=threads,
        dtype=dtype,
        read_gb_s=read_gb_s,
        gemm_gflop_s=gemm_gflop_s,
        quiet=quiet,
    )


def probe_apart(device: str, threads: int, dtype: str) -> Probe:
    """The same in a child process. Raises ``RuntimeError`` with what the child said."""
    command = [sys.executable, "-P", "-m", "prelude.bench.probe", device, str(threads), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"the probe failed (probe=false skips it): {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Probe)


def _best_s(work: Callable[[], object], synchronize: Callable[[], object], repeats: int) -> float:
    _once_s(work, synchronize)  # pays for pages, threads and packing
    return min(_once_s(work, synchronize) for _ in range(repeats))


def _once_s(work: Callable[[], object], synchronize: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure memory bandwidth and GEMM peak.")
    parser.add_argument("device", choices=sorted(READ_BYTES), nargs="?", default="cpu")
    parser.add_argument("threads", type=int, nargs="?", default=len(machine.my_cores()))
    parser.add_argument("dtype", choices=["float32", "bfloat16", "float16"], nargs="?")
    args = parser.parse_args()
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    print(msgspec.json.encode(probe(args.device, args.threads, dtype)).decode())


if __name__ == "__main__":
    main()
