"""The scenarios of ``flashinfer_rig`` with FlashInfer's real wrappers and real planners.

    python -m tests.flashinfer_native FOLDER       FOLDER: filled by tests.flashinfer_planners

Kernels are replaced by ``flashinfer_kernels``, which does what the planners' schedules say when
the fake stream comes to it; the planners' own copies to the device go through that stream too. Run
as a process of its own, because the CUDA runtime it loads is a fake.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import flashinfer_kernels as kernels
from tests import flashinfer_rig as scenarios
from tests.fake_device import FakeDevice
from tests.flashinfer_rig import KV_HEADS, SHAPES, Rig, new_attention

_CAUSAL = 1
_COPY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Machine:
    """The device of the scenario that runs, behind the runtime and the kernels of the process."""

    def __init__(self, folder: Path) -> None:
        self.device = FakeDevice()
        self._on_copy = _COPY(self._copy)  # the runtime keeps no reference
        runtime = ctypes.CDLL(str(folder / "libcudart.so.13"), mode=ctypes.RTLD_GLOBAL)
        runtime.fake_on_copy(self._on_copy)

    def _copy(self, target: int, source: int, num_bytes: int) -> None:
        self.device.stream.enqueue(lambda: ctypes.memmove(target, source, num_bytes))

    def patch(self) -> None:
        """Put our kernels where FlashInfer looks up its own."""
        from flashinfer import decode, prefill
        from flashinfer.jit import env

        env.FLASHINFER_AOT_DIR = Path(sys.argv[1])
        get_prefill, get_decode = prefill.get_batch_prefill_module, decode.get_batch_decode_module

        def prefill_module(backend: str, *args: Any) -> SimpleNamespace:
            module = get_prefill(backend, *args)
            run = self._prefill(kernels.fa2 if backend == "fa2" else kernels.fa3, module.paged_run)
            return SimpleNamespace(plan=module.plan, paged_run=run)

        def decode_module(*args: Any) -> SimpleNamespace:
            module = get_decode(*args)
            return SimpleNamespace(plan=module.plan, run=self._decode(module.run))

        prefill.get_batch_prefill_module = prefill_module
        decode.get_batch_prefill_module = prefill_module
        decode.get_batch_decode_module = decode_module

    def _prefill(
        self, kernel: Callable[[kernels.Inputs], None], launch: Callable[..., None]
    ) -> Callable[..., None]:
        def run(*args: Any) -> None:
            launch(*args)  # its checks of shapes, strides and types; the kernel does nothing
            _, schedule, info, q, k, v, qo, indptr, indices, last, out, _, mask, _, window = args[
                :15
            ]
            self._enqueue(
                kernel, schedule, info, q, k, v, qo, indptr, indices, last, out,
                mask == _CAUSAL, window, args[23],
            )  # fmt: skip

        return run

    def _decode(self, launch: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            launch(*args)
            _, schedule, info, q, k, v, indptr, indices, last, out, _, _, window = args[:13]
            qo = torch.arange(len(indptr), dtype=torch.int32)
            self._enqueue(
                kernels.decode, schedule, info, q, k, v, qo, indptr, indices, last, out,
                False, window, args[16],
            )  # fmt: skip

        return run

    def _enqueue(self, kernel: Callable[[kernels.Inputs], None], *args: Any) -> None:
        # On a GPU, what plan() sends there is a copy; on the CPU, .to() gives the pinned original.
        read: list[Any] = [
            a.clone() if isinstance(a, Tensor) and self.device.is_pinned(a) else a for a in args
        ]
        schedule, info, *rest = read
        inputs = kernels.Inputs(schedule, list(info), *rest)
        self.device.stream.enqueue(lambda: kernel(inputs))

    def rig(self, group: int = 4, prefill_backend: str = "fa2", **options: Any) -> Rig:
        attention = new_attention(
            num_heads=group * KV_HEADS, prefill_backend=prefill_backend, **options
        )
        return Rig(self.device, attention, group)


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(folder)
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = "9.0a"
    os.environ["FLASHINFER_DISABLE_JIT"] = "1"
    machine = Machine(folder)
    machine.patch()
    with pytest.MonkeyPatch.context() as monkeypatch, machine.device:
        machine.device.install(monkeypatch)
        for group, window in ((4, 0), (7, 5), (4, 20), (1, 0), (2, 5)):
            scenarios.random_launches(machine.rig(group, windows=(window,)), window)
            print(f"random launches, group {group}, window {window}: equal", flush=True)
        scenarios.random_launches(machine.rig(prefill_backend="fa3"), 0)
        scenarios.growing_rows(machine.rig(), captured=True)
        scenarios.kinds_in_turn(machine.rig())
        scenarios.missing_rows(machine.rig())
        scenarios.two_windows(machine.rig(windows=(0, 10)))
    print(f"all scenarios on {len(SHAPES)} shapes: equal")


if __name__ == "__main__":
    main()
