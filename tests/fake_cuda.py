"""Traces every program of a captured runner for device "cuda" without one: shapes, types and
devices are checked by torch itself, and nothing may be read back to the host.

    python -m tests.fake_cuda LIBRARY        LIBRARY: compiled from fake_cuda.cpp

Run as a process of its own, because the library changes what torch believes of this machine.
"""

import ctypes
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from prelude.cache.layout import KVLayout
from prelude.graphs.graph_pool import GraphPool
from prelude.graphs.queue import Results, Work
from prelude.models.decoder import Decoder
from prelude.models.spec import read_spec
from prelude.runner.captured_programs import NoPlanning, Programs
from prelude.runner.device_slots import DeviceSlots
from prelude.runner.static_inputs import Shape
from prelude.types.plan import BlockGrant, SlotAdmit
from prelude.types.request import SamplingParams

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
SHAPES = (Shape("decode", 1, 1), Shape("decode", 4, 4), Shape("prefill", 16, 2))


class FakeMark:
    def wait(self) -> None:
        pass

    def ms_since(self, earlier: "FakeMark") -> float:
        return 1.0


class FakeQueue:
    """Traces what it is given at once."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        self.num_captured = 0

    def run(self, work: Work) -> None:
        work()

    def capture(self, work: Work) -> Work:
        self.num_captured += 1
        work()
        return work

    def upload(self, target: Tensor, values: np.ndarray) -> None:
        assert (target.dtype, tuple(target.shape)) == (
            torch.from_numpy(values).dtype,
            values.shape,
        )

    def fetch(self, compute: Callable[[], Results]) -> Callable[[], Results]:
        found = compute()
        return lambda: found

    def mark(self) -> FakeMark:
        return FakeMark()


def main() -> None:
    ctypes.CDLL(sys.argv[1])
    with FakeTensorMode(), torch.no_grad():
        queue = FakeQueue()
        spec = read_spec(CONFIG)
        decoder = Decoder(spec, torch.bfloat16, queue.device)
        layout = KVLayout(spec.num_layers, 16, spec.num_kv_heads, spec.head_dim, torch.bfloat16)
        slots = DeviceSlots(4, 64, 16, spec.vocab_size, queue)
        programs = Programs(
            decoder,
            layout,
            slots,
            queue,
            GraphPool(queue),
            NoPlanning(),
            num_blocks=9,
            max_tokens=64,
            shapes=SHAPES,
        )
        params = SamplingParams(logit_bias={3: 1.0}, presence_penalty=0.5, min_tokens=2)
        slots.admit((SlotAdmit(1, 0, params, 7, (1, 2, 3), 2, (0,)),))
        slots.grant((BlockGrant(1, 0, (3, 4)),))
        while programs.count.ready < programs.count.total:
            programs.capture_some()
        for tensor in (programs.hidden, programs.logits, programs.ids, slots.last):
            assert tensor.device.type == "cuda"
        print(queue.num_captured)


if __name__ == "__main__":
    main()
