"""From deltas to the protocol's messages."""

from collections.abc import Iterable, Sequence

from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from prelude.server.generation import Generation
from prelude.text.choice import TextDelta
from prelude.text.logprobs import LogprobEntry
from prelude.types.request import TokenLogprobs


class Replies:
    """Of one generation. A choice's last message has all of its tokens; while it streams, those
    of each chunk are new."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._ids: list[list[int]] = [[] for _ in generation.choices]
        self._entries: list[list[LogprobEntry]] = [[] for _ in generation.choices]

    def note(self, delta: TextDelta) -> None:
        """Every delta, before it is told."""
        self._ids[delta.index] += delta.token_ids
        self._entries[delta.index] += delta.logprobs

    def chunk(self, delta: TextDelta) -> pb.GenerateResponse:
        index = delta.index
        usage = self._generation.usage()
        chunk = pb.GenerateStreamChunk(
            token_ids=delta.token_ids,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=len(self._ids[index]),
            cached_tokens=usage.cached_tokens,
            output_logprobs=_output(delta.logprobs),
            index=index,
        )
        if len(self._ids[index]) == len(delta.token_ids) and (prompt := self._prompt()) is not None:
            chunk.input_logprobs.CopyFrom(prompt)
        return pb.GenerateResponse(chunk=chunk)

    def complete(self, delta: TextDelta) -> pb.GenerateResponse:
        """``delta`` is the choice's last."""
        found = self.ended(delta.index, delta.finish_reason or "error")
        if isinstance(delta.stop_reason, int):
            found.complete.matched_token_id = delta.stop_reason
        elif delta.stop_reason is not None:
            found.complete.matched_stop_str = delta.stop_reason
        return found

    def ended(self, index: int, reason: str) -> pb.GenerateResponse:
        usage = self._generation.usage()
        complete = pb.GenerateComplete(
            output_ids=self._ids[index],
            finish_reason=reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=self._generation.choices[index].num_tokens,
            cached_tokens=usage.cached_tokens,
            output_logprobs=_output(self._entries[index]),
            input_logprobs=self._prompt(),
            index=index,
        )
        return pb.GenerateResponse(complete=complete)

    def _prompt(self) -> pb.InputLogProbs | None:
        rows = self._generation.prompt_logprobs(0)
        return None if rows is None else _input(self._generation.prompt_ids(0), rows)


def _output(entries: Sequence[LogprobEntry]) -> pb.OutputLogProbs | None:
    if not entries:
        return None
    return pb.OutputLogProbs(
        token_logprobs=[entry.score.logprob for entry in entries],
        token_ids=[entry.score.token_id for entry in entries],
        top_logprobs=[
            _top((score.token_id, score.logprob) for score in entry.top) for entry in entries
        ],
    )


def _input(prompt_ids: Sequence[int], rows: Sequence[TokenLogprobs | None]) -> pb.InputLogProbs:
    return pb.InputLogProbs(
        token_logprobs=[
            pb.InputTokenLogProb() if row is None else pb.InputTokenLogProb(value=row.logprob)
            for row in rows
        ],
        token_ids=prompt_ids,
        top_logprobs=[
            _top(()) if row is None else _top(zip(row.top_ids, row.top_logprobs, strict=True))
            for row in rows
        ],
    )


def _top(scores: Iterable[tuple[int, float]]) -> pb.TopLogProbs:
    pairs = list(scores)
    return pb.TopLogProbs(
        token_ids=[token_id for token_id, _ in pairs], values=[value for _, value in pairs]
    )
