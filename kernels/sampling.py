"""From logits to token ids, for a whole launch at once and without a loop over rows.

Randomness is a function of (seed, output index, purpose) alone, and a draw is an inverse CDF in
vocabulary order, so a row's token depends on its own logits and parameters and on nothing else in
the batch. Every reduction here works row by row for the same reason. All logits are
[rows, vocab]; results of sampling are int64 [rows].
"""

from typing import NamedTuple

import torch
from torch import Tensor

PURPOSE_SAMPLE = 0  # drawing the next token
PURPOSE_ACCEPT = 1  # accepting a drafted token
PURPOSE_RESAMPLE = 2  # redrawing after a rejected one

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_CANDIDATES = (512, 8192, 2**62)  # highest logits looked at, until they hold all that is kept


def uniform(seeds: Tensor, index: Tensor, purpose: int) -> Tensor:
    """One number in (0, 1) per row, float32, from int64 seeds and output indices [rows].

    Three rounds of splitmix64's finaliser (Steele, Lea and Flood 2014) chain seed, purpose and
    index; the upper 23 bits plus a half make the fraction, which is exact in float32. Integer
    arithmetic wraps alike on every device, so the numbers do too.
    """
    state = _mix(seeds + _GOLDEN)
    state = _mix(state + _signed(_GOLDEN * (purpose + 1)))
    state = _mix(state + _GOLDEN * (index + 1))
    return (_shift(state, 41).to(torch.float32) + 0.5) * 2.0**-23


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _signed(x: int) -> int:
    """The 64-bit two's complement that tensor arithmetic would have wrapped to."""
    return (x + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def greedy(logits: Tensor) -> Tensor:
    """Id of the highest logit of each row, the lowest such id at a tie."""
    return logits.argmax(dim=-1)


def filtered(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    index: Tensor,
) -> Tensor:
    """Sample each row: temperature, top-k, top-p, min-p, then one draw. All parameters [rows].

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off. ``index`` counts the row's
    output tokens so far. A row whose logits hold no finite value gives some id, never an error.
    """
    is_greedy = temperature == 0
    scaled = logits.float() / torch.where(is_greedy, 1.0, temperature)[:, None]
    u = uniform(seeds, index, PURPOSE_SAMPLE)
    ids = greedy(logits) if bool(is_greedy.any()) else torch.empty_like(seeds)
    cut = _Cut.find(scaled, top_k, top_p, min_p, ~is_greedy)
    if cut.near_rows.numel():
        ids[cut.near_rows] = cut.draw_near(u)
    rows = (~is_greedy).index_fill(0, cut.near_rows, False).nonzero().squeeze(-1)
    if rows.numel():
        kept = _mask_below(_take(scaled, rows), _take(cut.limits, rows))
        ids[rows] = draw(kept, _take(u, rows))
    return ids


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Inverse CDF in vocabulary order of softmax(logits) at u [rows] in (0, 1)."""
    cdf = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:]
    # Rounded up to the total, the target would lie behind the last token that may be drawn.
    target = torch.minimum(u[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    ids = torch.searchsorted(cdf, target, right=True).squeeze(-1)
    return ids.clamp_(max=logits.shape[-1] - 1)


def filter_logits(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits with -inf where top-k, top-p or min-p (in this order) exclude a token.

    The same sets as transformers' warpers, but tokens tied with the last one kept are kept too.
    ``logits`` are divided by temperature already.
    """
    everyone = torch.ones_like(top_k, dtype=torch.bool)
    return _mask_below(logits, _Cut.find(logits, top_k, top_p, min_p, everyone).limits)


def _mask_below(logits: Tensor, limits: Tensor) -> Tensor:
    if not bool(limits.isfinite().any()):
        return logits
    return logits.masked_fill(logits < limits[:, None], -torch.inf)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows], without a copy where ``rows`` (ascending) are all of them."""
    return x if rows.numel() == x.shape[0] else x[rows]


class _Cut(NamedTuple):
    """Where the filters cut each row: tokens below ``limits`` [rows] are excluded.

    For most rows all that is kept is among the few highest logits: those rows are ``near``, and
    drawn without another pass over the vocabulary.
    """

    limits: Tensor
    near_rows: Tensor  # [near] int64
    near_logits: Tensor  # [near, candidates], descending
    near_ids: Tensor  # [near, candidates]

    @classmethod
    def find(
        cls, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, wanted: Tensor
    ) -> "_Cut":
        vocab = logits.shape[-1]
        limits = logits.amax(dim=-1) + min_p.to(logits.dtype).log()
        rows = (wanted & ((top_k > 0) & (top_k < vocab) | (top_p < 1))).nonzero().squeeze(-1)
        if not rows.numel():
            return cls(limits, rows, logits[:0], rows)
        near: list[Tensor] = []
        for num_candidates in _CANDIDATES:
            subset = _take(logits, rows)
            best, ids = subset.topk(min(num_candidates, vocab), dim=-1)
            lowest, known = _lowest_kept(best, subset, top_k[rows], top_p[rows])
            done = rows[known]
            limits[done] = torch.maximum(limits[done], lowest[known])
            near = near or [done, best[known], ids[known]]
            rows = rows[~known]
            if not rows.numel():
                break
        return cls(limits, *near)

    def draw_near(self, u: Tensor) -> Tensor:
        """Ids of the near rows, at u [rows]."""
        ids, order = self.near_ids.sort(dim=-1)
        kept = _mask_below(self.near_logits.gather(1, order), self.limits[self.near_rows])
        return ids.gather(1, draw(kept, u[self.near_rows])[:, None]).squeeze(-1)


def _lowest_kept(
    best: Tensor, logits: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Lowest logit that top-k and then top-p keep, judged by ``best`` [rows, candidates], the
    highest of ``logits`` [rows, vocab] in descending order.

    Returns (limits [rows], known [rows] bool); where not known, the kept tokens may not all be
    among the candidates, and limits are too high or too low.
    """
    vocab, num_candidates = logits.shape[-1], best.shape[-1]
    k = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab).to(torch.int64)
    kth = best.gather(1, k.clamp(max=num_candidates)[:, None] - 1)
    within = k <= num_candidates
    kth = torch.where(within[:, None], kth, -torch.inf)
    probs = torch.softmax(best.masked_fill(best < kth, -torch.inf), dim=-1).to(torch.float64)
    if not bool(within.all()):
        # Without top-k, candidates hold a share of the mass, which two values of the best tell.
        share = torch.softmax(logits, dim=-1).amax(dim=-1) / probs[:, 0]
        probs = probs * torch.where(within, 1.0, share)[:, None]
    mass = probs.cumsum(dim=-1)
    # A token stays while the mass of those before it is below top_p: at least the first does.
    kept = ((mass - probs) < top_p[:, None]).sum(dim=-1).clamp(min=1)
    limits = torch.maximum(best.gather(1, kept[:, None] - 1), kth).squeeze(-1)
    limits = torch.where(top_p < 1, limits, kth.squeeze(-1))
    enough = within | ((k == vocab) & (mass[:, -1] >= top_p))
    ties_beyond = (best[:, -1] >= limits) & (num_candidates < vocab)
    return limits, enough & ~ties_beyond


def penalize(
    logits: Tensor,
    output_counts: Tensor,
    seen_prompt: Tensor,
    presence: Tensor,
    frequency: Tensor,
    repetition: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Logit bias, then CTRL's repetition penalty, then OpenAI's frequency and presence penalties.

    output_counts int32 and seen_prompt bool are [rows, vocab], the penalties [rows], bias
    [rows, vocab] or None. Repetition looks at prompt and output, the others at output alone.
    """
    scores = logits.float() if bias is None else logits.float() + bias
    in_output = output_counts > 0
    factor = torch.where(seen_prompt | in_output, repetition[:, None], 1.0)
    scores = torch.where(scores > 0, scores / factor, scores * factor)
    return scores - frequency[:, None] * output_counts - presence[:, None] * in_output


def forbid(logits: Tensor, row_ids: Tensor, token_ids: Tensor) -> Tensor:
    """Logits with -inf at every pair (row_ids[i], token_ids[i]), both int64."""
    return logits.index_put((row_ids, token_ids), logits.new_tensor(-torch.inf))


def logprobs(logits: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of raw logits: (of ``ids`` [rows], top ids [rows, k], theirs [rows, k])."""
    table = torch.log_softmax(logits.float(), dim=-1)
    top_lp, top_ids = table.topk(k, dim=-1)
    return table.gather(1, ids[:, None]).squeeze(-1), top_ids, top_lp
