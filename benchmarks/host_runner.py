"""A runner that does all that a runner does on the host, beside a device that only takes time."""

import time
from collections import deque
from collections.abc import Callable

import torch

from prelude.runner.inputs import LaunchInputs, build_inputs
from prelude.runner.slots import Slots
from prelude.types.plan import Plan, ProgramCount, Sampled, StepOutput
from prelude.types.prices import flat_prices

VOCAB = 32_000


class HostRunner:
    """Builds the input tensors of every launch and makes up the tokens. The device has a clock of
    its own: a plan starts when it is submitted and the one before has ended, and takes
    ``device_ms`` times ``jitter()``. ``runs`` are the (start, end) of all plans, in seconds."""

    programs = ProgramCount()
    vocab_size = VOCAB
    block_size = 16
    num_host_blocks = 0
    swap_ms = 0.0

    def __init__(
        self,
        *,
        depth: int,
        max_seqs: int,
        num_blocks: int,
        max_len: int = 2560,
        device_ms: float = 0.001,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.depth = depth
        self.num_blocks = num_blocks
        self.max_len = max_len
        self.prices = flat_prices(device_ms, 0.0)
        self.runs: list[tuple[float, float]] = []
        self._device_ms = device_ms
        self._jitter = jitter
        self._slots = Slots(max_seqs, -(-max_len // self.block_size), VOCAB)
        self._under_way: deque[tuple[Plan, list[LaunchInputs], float, float]] = deque()

    def submit(self, plan: Plan) -> None:
        inputs = self.inputs(plan)
        before_s = self.runs[-1][1] if self.runs else 0.0
        start_s = max(time.perf_counter(), before_s)
        self.runs.append((start_s, start_s + self._device_ms * self._jitter() / 1e3))
        self._under_way.append((plan, inputs, *self.runs[-1]))

    def collect(self) -> StepOutput:
        plan, inputs, start_s, end_s = self._under_way.popleft()
        if (left_s := end_s - time.perf_counter()) > 0.0:
            time.sleep(left_s)
        return self.outputs(plan, inputs, (end_s - start_s) * 1e3)

    def inputs(self, plan: Plan) -> list[LaunchInputs]:
        """What goes to the device with a plan."""
        for admit in plan.admits:
            self._slots.admit(admit)
        for grant in plan.grants:
            self._slots.grant(grant)
        return [build_inputs(launch, self._slots, self.block_size) for launch in plan.launches]

    def outputs(self, plan: Plan, inputs: list[LaunchInputs], run_ms: float) -> StepOutput:
        """What comes back; the same token for everybody."""
        sampled = []
        for launch, sent in zip(plan.launches, inputs, strict=True):
            ids = torch.full((len(sent.sample_rows),), 7).tolist()
            rows = [launch.rows[i] for i in sent.sample_rows]
            sampled += [Sampled(row.seq_id, token) for row, token in zip(rows, ids, strict=True)]
        share = run_ms / len(plan.launches)
        return StepOutput(tuple(sampled), (share,) * len(plan.launches))

    def upkeep(self) -> None:
        """Nothing is compiled here."""

    def close(self) -> None:
        """Nothing is held."""
