"""``prelude serve`` before an engine that computes nothing, for what the front end alone can do and
stand:

    python -m benchmarks.null_engine server.port=9000 batcher.step_ms=20

The engine is the real one, in its own process, with a runner that answers a fixed text. A step
takes ``batcher.step_ms`` milliseconds, or no more than its planning where that is not set. SIGUSR2
appends a line of JSON to ``--census FILE``: what this process holds at that moment.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from unittest import mock

import msgspec

from prelude.client.client import EngineClient
from prelude.client.process import start_engine
from prelude.conf.load import load_config
from prelude.conf.schema import Config
from prelude.engine.core import EngineCore
from prelude.engine.loop import run_loop
from prelude.engine.process import ZmqChannel
from prelude.logs import configure_logging
from prelude.models.tokenizer import load_tokenizer
from prelude.runner.protocol import Runner
from prelude.server import main as server_main
from prelude.types.plan import Embedding, Plan, ProgramCount, Sampled, StepOutput
from prelude.types.prices import PriceTable, flat_prices
from prelude.types.wire import EngineInfo, Ready

ANSWER = "The quick brown fox jumps over the lazy dog. "
VECTOR = array("f", [1.0, 0.0, 0.0, 0.0]).tobytes()
NUM_BLOCKS = 65_536
MAX_LEN = 16_384


class NullRunner:
    """A ``Runner`` whose sequences all say the tokens of ``answer`` again and again."""

    def __init__(self, answer: Sequence[int], vocab_size: int, step_ms: float) -> None:
        self.prices: PriceTable = flat_prices(max(step_ms, 0.01), 0.0)
        self.programs = ProgramCount()
        self.num_blocks = NUM_BLOCKS
        self.block_size = 16
        self.num_host_blocks = 0
        self.swap_ms = 0.0
        self.max_len = MAX_LEN
        self.vocab_size = vocab_size
        self.depth = 1
        self._answer = list(answer)
        self._embedded: dict[int, int] = {}  # lengths of the prompts in slots that want a vector
        self._step_s = step_ms / 1e3
        self._plans: deque[Plan] = deque()

    def submit(self, plan: Plan) -> None:
        self._plans.append(plan)

    def collect(self) -> StepOutput:
        plan = self._plans.popleft()
        for admit in plan.admits:
            self._embedded.pop(admit.slot, None)
            if admit.embeds:
                self._embedded[admit.slot] = admit.num_prompt
        sampled = [
            Sampled(row.seq_id, self._token(row.start + row.num_tokens), -1.0, (), ())
            for launch in plan.launches
            for row in launch.rows
            if row.samples
        ]
        if self._step_s:
            time.sleep(self._step_s)
        prices = tuple(launch.price_ms for launch in plan.launches)
        return StepOutput(tuple(sampled), prices, (), embeddings=self._embeddings(plan))

    def _embeddings(self, plan: Plan) -> tuple[Embedding, ...]:
        if not self._embedded:
            return ()
        return tuple(
            Embedding(row.seq_id, VECTOR)
            for launch in plan.launches
            for row in launch.rows
            if row.start + row.num_tokens == self._embedded.get(row.slot)
        )

    def _token(self, position: int) -> int:
        return self._answer[position % len(self._answer)]

    def upkeep(self) -> None:
        """Nothing is compiled here."""

    def close(self) -> None:
        """Nothing is held here."""


def null_engine(config: Config, to_engine: str, from_engine: str) -> None:
    """What the engine's process runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_logging(config.log.level)
    channel = ZmqChannel(to_engine, from_engine)
    core, info = make_engine(config)
    channel.send(Ready(info))
    run_loop(core, channel)
    channel.close()
    os._exit(0)


def make_engine(config: Config) -> tuple[EngineCore, EngineInfo]:
    tokenizer = load_tokenizer(config.model)
    answer = tokenizer.encode(ANSWER, add_special_tokens=False)
    runner: Runner = NullRunner(answer, tokenizer.vocab_size, config.batcher.step_ms or 0.0)
    core = EngineCore(
        runner,
        batcher=config.batcher,
        cache=config.cache,
        max_seqs=config.runner.max_seqs,
        eos_ids=tokenizer.eos_ids,
        seed=0,
    )
    info = EngineInfo(
        model_name=config.model.name or "null",
        model_path=str(config.model.path),
        device="null",
        dtype="none",
        max_len=runner.max_len,
        vocab_size=runner.vocab_size,
        eos_ids=list(tokenizer.eos_ids),
        num_blocks=runner.num_blocks - 1,
        block_size=runner.block_size,
        max_seqs=config.runner.max_seqs,
        startup_s={},
    )
    return core, info


def take_census(path: Path) -> None:
    """Tasks of the event loop, open files and objects of this process."""
    gc.collect()
    found = {
        "tasks": len(asyncio.all_tasks()),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }
    with path.open("ab") as out:
        out.write(msgspec.json.encode(found) + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--census", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the server's configuration")
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.overrides)
    configure_logging(config.log.level)

    def on_signal(number: int, frame: FrameType | None) -> None:
        take_census(args.census)

    if args.census is not None:
        signal.signal(signal.SIGUSR2, on_signal)

    def start(config: Config) -> EngineClient:
        return start_engine(config, null_engine)

    with mock.patch.object(server_main, "start_engine", start):
        return server_main.serve(config)


if __name__ == "__main__":
    sys.exit(main())
