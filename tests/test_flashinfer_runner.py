"""The captured runner with FlashInfer's double in it answers as the plain runner does."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from prelude.cache.layout import KVLayout
from prelude.kernels import flashinfer
from prelude.kernels.flashinfer import FlashInferAttention
from prelude.kernels.layer_ops import PlainOps
from prelude.runner.captured import CapturedRunner
from prelude.runner.static_inputs import shapes_of
from tests.device_double import DeviceDouble
from tests.fake_device import FakeDevice, FakeStream, Work
from tests.fake_flashinfer import Library
from tests.model_samples import load, save_checkpoint
from tests.parity import open_engine
from tests.test_differential import answers, story
from tests.test_runner_captured import (
    BLOCK,
    BUCKETS,
    PLAIN,
    capture_all,
    captured_engine,
    requests,
)


class ImmediateStream(FakeStream):
    """Does everything at once, unseen by who records a capture: the queue keeps the order."""

    def enqueue(self, work: Work) -> None:
        with _disable_current_modes():
            work()


class PlannedOps(PlainOps):
    def __init__(self, attention: FlashInferAttention) -> None:
        self._attention = attention

    def attend(
        self,
        q: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int,
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        self._attention.attend(q, kv, cu_q, ctx_lens, block_tables, scale, window, out)
        return out


def flashinfer_runner(folder: Path, queue: DeviceDouble) -> CapturedRunner:
    decoder = load(folder)
    spec = decoder.spec
    attention = FlashInferAttention(
        spec.num_heads,
        spec.num_kv_heads,
        spec.head_dim,
        BLOCK,
        torch.float32,
        queue.device,
        windows=tuple(sorted(set(spec.windows))),
        shapes=shapes_of(BUCKETS),
        max_rows=6,
        max_tokens=20,
        row_blocks=112 // BLOCK,
        prefill_backend="fa2",
    )
    decoder.use_ops(PlannedOps(attention))
    layout = KVLayout(spec.num_layers, BLOCK, spec.num_kv_heads, spec.head_dim, torch.float32)
    return CapturedRunner(
        decoder,
        layout,
        queue,
        attention,
        num_blocks=30,
        max_len=112,
        max_seqs=6,
        max_step_tokens=20,
        buckets=BUCKETS,
    )


def test_answers_are_those_of_the_plain_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, "qwen3-mixed")
    asked = requests(6)
    plain_core = open_engine(tmp_path, PLAIN)
    plain = answers(plain_core, asked)
    monkeypatch.setattr(flashinfer, "_DTYPES", (torch.float32,))
    monkeypatch.setattr(flashinfer, "_HEAD_DIMS", (8, 16))
    device = FakeDevice()
    device.stream = ImmediateStream()
    device.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "flashinfer", Library(device))
    with device:
        queue = DeviceDouble()
        runner = flashinfer_runner(tmp_path, queue)
        capture_all(runner)
        found = answers(captured_engine(runner, plain_core.ledger._eos_ids), asked)
    assert {key: story(found[key]) for key in plain} == {key: story(plain[key]) for key in plain}
    assert sum(graph.num_replays for graph in queue.graphs) > 50
