"""Bucket keys: the small, known set of program shapes that steps are rounded up to. No torch."""

from prelude.types.plan import BucketKey, LaunchKind
from prelude.types.request import SampleMode


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
