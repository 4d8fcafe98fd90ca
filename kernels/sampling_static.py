"""``sampling.filtered`` as a fixed sequence of operations, for programs captured ahead of time.

``filtered`` looks at the logits to decide how many candidates to sort, which a CUDA graph cannot
do. Here the limits of top-k and top-p come from histograms over the bits of the logits: shapes and
operations depend on the shape and type of the logits alone, and the host waits for nothing. Sets
and draws are those of ``filtered``.

Probabilities are summed as integers, so a sum does not depend on the order of its terms, neither
on the batch nor on how a device divides the work.
"""

import torch
from torch import Tensor

from prelude.kernels.sampling import PURPOSE_SAMPLE, draw, greedy, uniform

_DIGIT = 11  # bits told apart by one histogram
_ONE = 2.0**44  # weight of the best token: 2**18 of them fit an int64


def filtered_static(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    index: Tensor,
) -> Tensor:
    """Sample each row of logits [rows, vocab]; see ``sampling.filtered``. All parameters [rows].

    Costs the same whether filters are on or off. A vocabulary has at most 2**18 tokens.
    """
    u = uniform(seeds, index, PURPOSE_SAMPLE)
    return sample_at(logits, temperature, top_k, top_p, min_p, u)


def sample_at(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, u: Tensor
) -> Tensor:
    """``filtered_static`` with its random numbers given: u [rows] in (0, 1), float32."""
    is_greedy = temperature == 0
    scaled = logits.float() / torch.where(is_greedy, 1.0, temperature)[:, None]
    # Scaling keeps 16-bit logits distinct, so their own bits serve and there are half as many.
    narrow = logits.element_size() == 2
    keys = _ordered_keys(logits if narrow else scaled)
    lowest = _lowest_kept(keys, 16 if narrow else 32, scaled, top_k, top_p)
    excluded = keys < lowest[:, None]
    excluded |= scaled < (scaled.amax(dim=-1) + min_p.log())[:, None]
    ids = draw(scaled.masked_fill(excluded, -torch.inf), u)
    return torch.where(is_greedy, greedy(logits), ids)


def _ordered_keys(x: Tensor) -> Tensor:
    """Non-negative int64 that compare as the floats of x do, of as many bits; both zeros alike."""
    sign = 8 * x.element_size() - 1
    integer = torch.int16 if x.element_size() == 2 else torch.int32
    bits = torch.where(x == 0, 0.0, x).view(integer)
    ordered: Tensor = bits ^ ((bits >> sign) & ((1 << sign) - 1))
    return ordered.long() + (1 << sign)


def _lowest_kept(keys: Tensor, bits: int, scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Lowest key that top-k and then top-p keep; tokens tied with it are kept."""
    vocab = keys.shape[-1]
    k = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab)
    kth = _highest_with(keys, bits, keys.new_ones(()).expand_as(keys), k)
    weights = (torch.exp(scaled - scaled.amax(dim=-1, keepdim=True)) * _ONE).long()
    weights = weights.masked_fill(keys < kth[:, None], 0)
    wanted = (weights.sum(dim=-1) * top_p.double()).ceil().long().clamp(min=1)
    return torch.where(top_p < 1, _highest_with(keys, bits, weights, wanted), kth)


def _highest_with(keys: Tensor, bits: int, weights: Tensor, wanted: Tensor) -> Tensor:
    """Highest key such that the tokens at or above it weigh at least ``wanted`` [rows]."""
    found = torch.zeros_like(wanted)
    for shift in reversed(range(0, bits, _DIGIT)):
        # Bins of the keys that begin with what is found; one more below them, one above.
        bin_ids = (keys >> shift).sub_((found << _DIGIT)[:, None] - 1).clamp_(0, 2**_DIGIT + 1)
        bins = weights.new_zeros(keys.shape[0], 2**_DIGIT + 2).scatter_add_(1, bin_ids, weights)
        from_here = bins.flip(1).cumsum(1)  # last bin first
        num_light = (from_here < wanted[:, None]).sum(1)
        found = (found << _DIGIT) + (2**_DIGIT - num_light).clamp(0, 2**_DIGIT - 1)
    return found
