"""A runner on a thread of its own, so that the next step can be planned while one runs.

It pays where a step spends its time outside the interpreter lock and a core is left for planning.
"""

import queue
import threading

import torch

from prelude.runner.protocol import Runner
from prelude.types.plan import Plan, ProgramCount, StepOutput
from prelude.types.prices import PriceTable


class ThreadedRunner:
    """Gives a runner of depth 1 depth 2. Only the thread touches ``runner`` from now on; what goes
    wrong there is raised by ``collect``."""

    depth = 2

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.num_blocks = runner.num_blocks
        self.block_size = runner.block_size
        self.num_host_blocks = runner.num_host_blocks
        self.swap_ms = runner.swap_ms
        self.max_len = runner.max_len
        self.vocab_size = runner.vocab_size
        self._plans: queue.SimpleQueue[Plan | None] = queue.SimpleQueue()
        self._outputs: queue.SimpleQueue[StepOutput | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="prelude-runner", daemon=True)
        self._thread.start()

    @property
    def prices(self) -> PriceTable:
        return self._runner.prices

    @property
    def programs(self) -> ProgramCount:
        return self._runner.programs

    def submit(self, plan: Plan) -> None:
        self._plans.put(plan)

    def collect(self) -> StepOutput:
        output = self._outputs.get()
        if isinstance(output, Exception):
            raise output
        return output

    def upkeep(self) -> None:
        """Done between plans, on the thread."""

    def close(self) -> None:
        self._plans.put(None)
        self._thread.join()
        self._runner.close()

    def _work(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # a thread does not inherit OpenMP's
        while (plan := self._plans.get()) is not None:
            try:
                self._runner.upkeep()
                self._runner.submit(plan)
                self._outputs.put(self._runner.collect())
            except Exception as error:
                self._outputs.put(error)
