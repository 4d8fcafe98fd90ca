"""Trains the demo model on two CPU cores, resumably.

    python -m benchmarks.demo.train runs/demo --steps 6000 --decay 1500

Every decision counts steps, not seconds, so a paused or contended run learns the same thing. The
learning rate is constant until ``--decay`` steps before the end: a run may be resumed with another
``--steps``, and the averaged weights of any checkpoint can be bundled.
"""

import argparse
import json
import logging
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast

from benchmarks.demo import data
from benchmarks.demo.model import CONFIG, Decoder
from benchmarks.demo.optimizer import Optimizer, all_reduce
from benchmarks.demo.tokenizer import Encoder, build

LENGTH, CHAT_LENGTH = 256, 1024
CHAT_EVERY, CHAT_FROM = 12, 800
WARM_UP, RAMP_FROM, RAMP_TO = 100, 250, 900
SAVE_EVERY, REPORT_EVERY = 100, 25
EMA = 0.997
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    directory: Path
    steps: int
    decay: int
    workers: int
    rows: int
    seed: int
    muon_rate: float
    adam_rate: float
    compiled: bool


def level(step: int) -> float:
    """Where the curriculum stands, 0 to 1."""
    return min(1.0, max(0.0, (step - RAMP_FROM) / (RAMP_TO - RAMP_FROM)))


def rate(step: int, steps: int, decay: int) -> float:
    """Warm-up, then constant, then linearly to zero over the last ``decay`` steps."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / decay))


def progress(disable: bool) -> Progress:
    text = TextColumn("{task.description}")
    columns = (BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    return Progress(*columns, disable=disable)


def tokenizer_of(directory: Path) -> PreTrainedTokenizerFast:
    """The run's tokenizer: built once, so that a change of the generators cannot change it."""
    folder = directory / "tokenizer"
    if not folder.exists():
        build().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def batch_for(options: Options, encoder: Encoder, step: int, rank: int) -> data.Batch:
    rng = Random(f"{options.seed}:{step}:{rank}")
    if step >= CHAT_FROM and step % CHAT_EVERY == 0:
        rows = options.rows * LENGTH // CHAT_LENGTH
        return data.conversations(encoder, rng, level(step), rows, CHAT_LENGTH)
    return data.packed(encoder, rng, level(step), options.rows, LENGTH)


class Trainer:
    """One worker's model, optimizer and running average; rank 0 also writes."""

    def __init__(self, options: Options, rank: int) -> None:
        self.options, self.rank, self.step, self.seen = options, rank, 0, 0
        torch.manual_seed(options.seed)
        self.encoder = Encoder(tokenizer_of(options.directory))
        self.model = Decoder(CONFIG, CHAT_LENGTH)
        self.loss = torch.compile(self.model, dynamic=False) if options.compiled else self.model
        self.optimizer = Optimizer(self.model, rank, options.workers, weight_decay=0.01)
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.checks = data.held_out(self.encoder, 1, 4, 16, LENGTH) if rank == 0 else []
        if self.checkpoint.exists():
            self.restore()

    @property
    def checkpoint(self) -> Path:
        return self.options.directory / "checkpoint.pt"

    def restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load(state["optimizer"])
        self.average, self.step, self.seen = state["average"], state["step"], state["seen"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "seen": self.seen,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def train_step(self) -> float:
        """One optimizer step; returns the mean loss per learnt token over all workers."""
        options = self.options
        batch = batch_for(options, self.encoder, self.step, self.rank)
        loss, plain = self.loss(batch.tokens, batch.targets, batch.weights, batch.documents)
        loss.backward()
        totals = torch.tensor([plain.item(), batch.num_targets, batch.weights.sum().item()])
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if options.workers > 1:
            all_reduce([*gradients, totals])
        for gradient in gradients:
            gradient.div_(totals[2])
        factor = rate(self.step, options.steps, options.decay)
        self.optimizer.step(options.muon_rate * factor, options.adam_rate * factor)
        self.model.zero_grad()
        self.step += 1
        self.seen += int(totals[1])
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, max(1 - EMA, 1 / self.step))
        return float(totals[0] / totals[1])

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss per answer token of the running average on the fixed held-out batches."""
        current = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.model.load_state_dict(self.average)
        losses = [self.model(b.tokens, b.targets, b.weights, b.documents)[1] for b in self.checks]
        self.model.load_state_dict(current)
        return float(sum(losses)) / sum(batch.num_targets for batch in self.checks)

    def record(self, losses: list[float], seconds: float) -> None:
        line: dict[str, float] = {
            "step": self.step,
            "loss": sum(losses) / len(losses),
            "held_out_loss": self.held_out_loss(),
            "learnt_tokens": self.seen,
            "level": level(self.step),
            "rate": rate(self.step, self.options.steps, self.options.decay),
            "seconds": seconds,
        }
        with (self.options.directory / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def run(self) -> None:
        steps, writes = self.options.steps, self.rank == 0
        losses: list[float] = []
        started = time.monotonic()
        with progress(disable=not writes) as bar:
            task = bar.add_task("", total=steps, completed=self.step)
            while self.step < steps:
                losses.append(self.train_step())
                bar.update(task, completed=self.step, description=f"loss {losses[-1]:.3f}")
                if writes and self.step % REPORT_EVERY == 0:
                    logger.info("step %d of %d, loss %.3f", self.step, steps, losses[-1])
                if writes and (self.step % SAVE_EVERY == 0 or self.step == steps):
                    self.save()
                    self.record(losses, time.monotonic() - started)
                    losses, started = [], time.monotonic()


def work(rank: int, options: Options) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.workers > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{(options.directory / 'rendezvous').resolve()}",
            rank=rank,
            world_size=options.workers,
            timeout=timedelta(days=1),
        )
    with (options.directory / "train.pid").open("a") as file:
        file.write(f"{os.getpid()}\n")
    Trainer(options, rank).run()


def parse() -> Options:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rows", type=int, default=12, help="rows of 256 tokens per worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    parser.add_argument("--eager", dest="compiled", action="store_false")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    options = parse()
    options.directory.mkdir(parents=True, exist_ok=True)
    for stale in ("rendezvous", "train.pid"):
        (options.directory / stale).unlink(missing_ok=True)
    tokenizer_of(options.directory)
    spawn(work, args=(options,), nprocs=options.workers)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
