"""What a client is told about a sequence: events made from its record, and nothing changed."""

from prelude.batcher.sequence import Sequence
from prelude.types.errors import Refusal, RefusedError, RequestError
from prelude.types.plan import PromptLogprobs, Sampled
from prelude.types.request import FinishReason, Request, RequestTimings, TokenEvent, TokenLogprobs


def refusals(request: Request, error: RequestError) -> list[TokenEvent]:
    """One last event for every choice of a request that is not served."""
    refusal = error.refusal if isinstance(error, RefusedError) else None
    return [
        TokenEvent(request.uid, index, [], "error", error=str(error), refusal=refusal)
        for index in range(request.params.n)
    ]


def aborted(request: Request) -> list[TokenEvent]:
    """The same for one that its client has given up before it was queued."""
    return [TokenEvent(request.uid, index, [], "abort") for index in range(request.params.n)]


def end_of(seq: Sequence, sampled: Sampled) -> tuple[FinishReason | None, int | None]:
    """Why ``sampled``, the last token of ``seq`` now, ends it, if it does; and the stop token.
    Where a grammar has nothing more to say, ``min_tokens`` cannot help it."""
    num_output = seq.num_output
    if sampled.token_id in seq.stop_ids and num_output >= seq.params.min_tokens:
        return "stop", sampled.token_id
    if sampled.ends == "stop":
        return "stop", None
    return ("length", None) if num_output >= seq.max_tokens else (None, None)


def token_event(
    seq: Sequence,
    sampled: Sampled,
    reason: FinishReason | None,
    stop_id: int | None,
    timings: RequestTimings | None,
) -> TokenEvent:
    """``sampled`` is the last token of ``seq`` now; prompt logprobs go with the first."""
    return TokenEvent(
        seq.request.uid,
        seq.index,
        [sampled.token_id],
        reason,
        stop_id,
        None if seq.params.logprobs is None else [_logprobs(seq.params.logprobs, sampled)],
        _prompt_logprobs(seq) if seq.num_output == 1 else None,
        seq.num_cached_tokens,
        timings,
    )


def last_event(
    seq: Sequence,
    reason: FinishReason,
    now_s: float,
    refusal: Refusal | None = None,
    embedding: bytes | None = None,
    error: str | None = None,
) -> TokenEvent:
    """The end of a sequence that ends without another token."""
    return TokenEvent(
        seq.request.uid,
        seq.index,
        [],
        reason,
        num_cached_tokens=seq.num_cached_tokens,
        timings=timings_of(seq, now_s),
        error=error if refusal is None else str(refusal),
        refusal=refusal,
        embedding=embedding,
    )


def timings_of(seq: Sequence, now_s: float) -> RequestTimings:
    """What a sequence has waited and worked until ``now_s``."""
    scheduled_s = seq.scheduled_s if seq.scheduled_s is not None else now_s
    first_s = seq.first_token_s if seq.first_token_s is not None else now_s
    arrival_s = seq.request.arrival_s or scheduled_s
    return RequestTimings(
        max(scheduled_s - arrival_s, 0.0) * 1e3,
        (first_s - scheduled_s) * 1e3,
        (now_s - first_s) * 1e3,
        seq.num_preemptions,
        seq.service_class,
        seq.prediction.q50 if seq.prediction else 0.0,
        seq.waited_as or seq.service_class,
    )


def collect_prompt_logprobs(seq: Sequence, part: PromptLogprobs) -> None:
    """Rows come in order, from the second prompt token on."""
    assert part.first == len(seq.prompt_logprobs) + 1
    for token_id, logprob, ids, values in zip(
        part.token_ids, part.logprobs, part.top_ids, part.top_logprobs, strict=True
    ):
        seq.prompt_logprobs.append(TokenLogprobs(token_id, logprob, list(ids), list(values)))


def _logprobs(count: int, sampled: Sampled) -> TokenLogprobs:
    assert sampled.logprob is not None
    return TokenLogprobs(
        sampled.token_id,
        sampled.logprob,
        list(sampled.top_ids[:count]),
        list(sampled.top_logprobs[:count]),
    )


def _prompt_logprobs(seq: Sequence) -> list[TokenLogprobs | None] | None:
    """The first prompt token has nothing to be predicted from."""
    wanted = seq.params.prompt_logprobs is not None and seq.index == 0
    return [None, *seq.prompt_logprobs] if wanted else None
