"""The model runner on CPU: weights, KV pool, slots and programs of one model."""

import time
from collections import deque

import torch
from torch import Tensor

from prelude.cache.backing import Backing
from prelude.cache.layout import KVLayout
from prelude.graphs.pool import LayerPrograms
from prelude.models.decoder import Decoder
from prelude.runner.calibrate import measure_prices, remeasure_body
from prelude.runner.embeddings import embedding_rows, embeddings, gather
from prelude.runner.inputs import LaunchInputs, build_inputs
from prelude.runner.sampler import prompt_logprobs, sample
from prelude.runner.slots import Slots
from prelude.runner.swap import AtOnce, Swapper
from prelude.types.plan import (
    Embedding,
    Launch,
    Plan,
    ProgramCount,
    PromptLogprobs,
    Sampled,
    StepOutput,
)
from prelude.types.prices import PriceTable


class ModelRunner:
    """Runs plans on ``decoder``, each when it is collected. ``num_blocks`` KV blocks are allocated
    here, once: programs bake in nothing but shapes, so eager and compiled steps share them.
    ``num_host_blocks`` more are room for KV that is not in use. ``prices`` that an earlier run has
    left need not be measured."""

    depth = 1

    def __init__(
        self,
        decoder: Decoder,
        layout: KVLayout,
        *,
        num_blocks: int,
        num_host_blocks: int = 0,
        max_len: int,
        max_seqs: int,
        programs: LayerPrograms,
        prices: PriceTable | None = None,
    ) -> None:
        self.decoder = decoder
        self.layout = layout
        self.num_blocks = num_blocks
        self.block_size = layout.block_size
        self.max_len = max_len
        self.vocab_size = decoder.spec.vocab_size
        cpu = torch.device("cpu")
        self._kv = layout.allocate(num_blocks, cpu)
        self._backing = Backing(self._kv)
        with torch.inference_mode():
            self._swapper = Swapper(self._kv, layout, num_host_blocks, AtOnce(cpu))
        self.num_host_blocks = num_host_blocks
        self.swap_ms = self._swapper.swap_ms
        width = -(-max_len // layout.block_size)
        self._slots = Slots(max_seqs, width, self.vocab_size)
        self._programs = programs
        self._queue: deque[Plan] = deque()
        decoder.layers_fn = programs
        self.prices = prices or measure_prices(decoder, self._kv, self.block_size)

    @property
    def programs(self) -> ProgramCount:
        return self._programs.count

    def upkeep(self) -> None:
        if self._programs.upkeep():
            self.prices = remeasure_body(self.prices, self.decoder, self._kv, self.block_size)

    def close(self) -> None:
        self._programs.close()

    def submit(self, plan: Plan) -> None:
        self._queue.append(plan)

    @torch.inference_mode()
    def collect(self) -> StepOutput:
        plan = self._queue.popleft()
        self._backing.follow(plan)
        copying = self._swapper.enqueue(plan)
        for admit in plan.admits:
            self._slots.admit(admit)
        for grant in plan.grants:
            self._slots.grant(grant)
        sampled: list[Sampled] = []
        prompts: list[PromptLogprobs] = []
        embedded: list[Embedding] = []
        actual_ms = []
        for launch in plan.launches:
            inputs = build_inputs(launch, self._slots, self.block_size)
            start = time.perf_counter()
            tokens, scores, found = self._run(launch, inputs)
            actual_ms.append((time.perf_counter() - start) * 1e3)
            sampled += tokens
            prompts += scores
            embedded += found
        copy_ms = copying.wait_ms() if copying else 0.0
        return StepOutput(
            tuple(sampled), tuple(actual_ms), tuple(prompts), copy_ms, tuple(embedded)
        )

    def _run(
        self, launch: Launch, inputs: LaunchInputs
    ) -> tuple[list[Sampled], list[PromptLogprobs], list[Embedding]]:
        hidden = self.decoder(inputs.ids, inputs.positions, self._kv, inputs.meta)
        sampled: list[Sampled] = []
        if inputs.sample_rows:
            all_sample = len(inputs.sample_at) == len(hidden)
            logits = self.decoder.logits(hidden if all_sample else hidden[inputs.sample_at])
            sampled = sample(launch, inputs, logits, self._slots)
        seq_ids, tokens = embedding_rows(launch, self._slots.admits)
        found = embeddings(seq_ids, gather(hidden, tokens).cpu()) if tokens else []
        return sampled, self._prompt_logprobs(launch, inputs, hidden), found

    def _prompt_logprobs(
        self, launch: Launch, inputs: LaunchInputs, hidden: Tensor
    ) -> list[PromptLogprobs]:
        found = []
        first = 0
        for row in launch.rows:
            if row.token_ids:  # a row of a prompt, not a token that was sampled
                own = hidden[first : first + row.num_tokens]
                part = prompt_logprobs(row, own, self.decoder.logits, self._slots)
                found += [part] if part else []
            first += row.num_tokens
        return found
