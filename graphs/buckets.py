"""Bucket keys: the small, known set of program shapes that steps are rounded up to. No torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prelude.types.plan import BucketKey, LaunchKind
from prelude.types.request import SampleMode

_MIN_ROWS = 4
_TOKENS_A_ROW = 8
_MAX_CANDIDATES = 96

_Choice = tuple[int, tuple[int, ...]]  # padding in all, buckets
_NONE: _Choice = (2**62, ())


def round_up_tokens(n: int) -> int:
    """Next bucket of new tokens: powers of two to 16, then four steps per octave, so that padding
    to it would cost at most a quarter."""
    if n <= 16:
        return 1 << (n - 1).bit_length()
    step = 1 << (n.bit_length() - 3)
    return -(-n // step) * step


def bucket_key(
    kind: LaunchKind, num_tokens: int, num_rows: int, mode: SampleMode = "greedy"
) -> BucketKey:
    """The smallest bucket that holds ``num_tokens`` new tokens in ``num_rows`` rows."""
    assert num_tokens >= num_rows >= 1
    return BucketKey(kind, round_up_tokens(num_tokens), round_up_tokens(num_rows), 0, mode)


def ladder(low: int, high: int) -> tuple[int, ...]:
    """All buckets from the one of ``low`` up to ``high``, which is always the last."""
    sizes = [round_up_tokens(low)]
    while sizes[-1] < high:
        sizes.append(round_up_tokens(sizes[-1] + 1))
    return (*(size for size in sizes if size < high), high)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Static shapes of a device: ``decode`` row counts, ``prefill`` token counts, increasing. A
    prefill bucket has one row count, so that there is one program a size and mode. Empty where
    shapes are free. ``max_rows`` are the slots there are."""

    decode: tuple[int, ...] = ()
    prefill: tuple[int, ...] = ()
    max_rows: int = 0

    @property
    def is_static(self) -> bool:
        return bool(self.decode)

    def prefill_rows(self, num_tokens: int) -> int:
        """Rows of the prefill bucket of ``num_tokens``: fewer than tokens, for a launch of as many
        rows as tokens is a decode launch."""
        return min(max(num_tokens // _TOKENS_A_ROW, _MIN_ROWS), self.max_rows, num_tokens - 1)

    def key(
        self, kind: LaunchKind, num_tokens: int, num_rows: int, mode: SampleMode = "greedy"
    ) -> BucketKey:
        """The bucket a launch is padded to; its exact size where it is beyond all of them, which
        then runs without capture. Without static shapes a rounded name."""
        if not self.is_static:
            return bucket_key(kind, num_tokens, num_rows, mode)
        if kind == "decode":
            rows = next((size for size in self.decode if size >= num_rows), num_rows)
            return BucketKey(kind, rows, rows, 0, mode)
        for size in self.prefill:
            if size >= num_tokens and self.prefill_rows(size) >= num_rows:
                return BucketKey(kind, size, self.prefill_rows(size), 0, mode)
        return BucketKey(kind, num_tokens, num_rows, 0, mode)

    def below(self, num_tokens: int, num_rows: int) -> int:
        """The largest prefill bucket with fewer tokens and room for the rows; 0 if none."""
        fitting = (
            size
            for size in reversed(self.prefill)
            if size < num_tokens and self.prefill_rows(size) >= num_rows
        )
        return next(fitting, 0)

    def keys(self, modes: Sequence[SampleMode]) -> list[BucketKey]:
        """All programs, largest first: the order of capture, so that memory is reused."""
        found = [self.key("prefill", size, 1, mode) for size in self.prefill for mode in modes]
        found += [self.key("decode", size, size, mode) for size in self.decode for mode in modes]
        return sorted(found, key=lambda key: key.num_tokens, reverse=True)


def choose_buckets(
    default: Sequence[int], histogram: Mapping[int, int], limit: int
) -> tuple[int, ...]:
    """At most ``limit`` sizes, the largest default among them, that pad launches least.

    ``histogram`` counts launches by exact size; without one the defaults stand for it, all alike.
    Sizes beyond the largest default are ignored: they run without capture. Exact for the
    candidates (defaults and the most frequent sizes) by dynamic programming.
    """
    assert default and limit >= 1
    top = max(default)
    counts = Counter({size: n for size, n in histogram.items() if 0 < size <= top and n > 0})
    if not counts:
        counts = Counter(default)
    frequent = [size for size, _ in counts.most_common(max(_MAX_CANDIDATES - len(default), 0))]
    return _least_padding(sorted({*default, *frequent}), counts, limit)


def padding(buckets: Sequence[int], histogram: Mapping[int, int]) -> int:
    """Tokens (or rows) of padding that launches of these sizes would have had in all."""
    inside = {size: n for size, n in histogram.items() if size <= buckets[-1]}
    return sum(n * (min(b for b in buckets if b >= size) - size) for size, n in inside.items())


def _least_padding(sizes: list[int], counts: Counter[int], limit: int) -> tuple[int, ...]:
    """Of ``sizes`` (increasing) the best subset that has the last one, the smallest of equals."""
    spans = [range(low + 1, high + 1) for low, high in zip([0, *sizes], sizes, strict=False)]
    launches = [0, *accumulate(sum(counts[n] for n in span) for span in spans)]
    tokens = [0, *accumulate(sum(n * counts[n] for n in span) for span in spans)]

    def extended(choice: _Choice, i: int, j: int) -> _Choice:
        """Launches above the first ``i`` sizes go to the ``j``-th."""
        size = sizes[j - 1]
        added = size * (launches[j] - launches[i]) - (tokens[j] - tokens[i])
        return choice[0] + added, (*choice[1], size)

    best: list[_Choice] = [(0, ()), *[_NONE] * len(sizes)]  # [j]: up to the j-th size
    answer = _NONE
    for _ in range(limit):
        ends = range(1, len(sizes) + 1)
        best = [_NONE, *(min(extended(best[i], i, j) for i in range(j)) for j in ends)]
        answer = min(answer, best[-1], key=lambda choice: choice[0])
    return answer[1]
