"""What an engine learns of its model and machine while it serves: what launches cost, how large
they are, and how long answers get. Kept between starts beside the compiled programs, so that the
next one need not measure prices, can choose its buckets by the launches there really were, and
knows its clients.
"""

import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec

from prelude.batcher.predictor import Predictor
from prelude.batcher.rules import Rules
from prelude.types.estimator import PriceEstimator
from prelude.types.plan import Launch
from prelude.types.prices import PriceTable

logger = logging.getLogger(__name__)

PROFILE_VERSION = 1
_MAX_COUNTED = 1_000_000  # launches; then all counts are halved, and old traffic is forgotten


class ProfileRecord(msgspec.Struct, frozen=True):
    """The file. ``prices`` are those of compiled programs, null where these were not in use yet;
    ``decode`` counts launches by rows, ``prefill`` by new tokens."""

    prices: PriceTable | None = None
    decode: dict[int, int] = {}
    prefill: dict[int, int] = {}
    version: int = PROFILE_VERSION


def read_profile(path: Path) -> ProfileRecord:
    """What an earlier engine has learned; nothing if there is no file that can be read."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ProfileRecord)
    except FileNotFoundError:
        return ProfileRecord()
    except (OSError, ValueError) as error:
        logger.warning("%s is ignored: %s", path, error)
        return ProfileRecord()
    return record if record.version == PROFILE_VERSION else ProfileRecord()


class Profile:
    """Prices and sizes of one engine's launches, on top of what ``path`` holds if there is one.

    ``padded`` says that the device runs all of a launch's bucket.
    """

    def __init__(
        self, prices: PriceTable, *, padded: bool = False, path: Path | None = None
    ) -> None:
        self._path = path
        self._listed = prices
        self.prices = PriceEstimator(prices, padded=padded)
        record = read_profile(path) if path else ProfileRecord()
        self._sizes = {"decode": Counter(record.decode), "prefill": Counter(record.prefill)}
        self._predictor: Predictor | None = None

    def predictor(self, rules: Rules) -> Predictor:
        """A predictor of lengths that knows what earlier engines have learned; ``save`` keeps what
        it learns."""
        self._predictor = Predictor(rules.deep_tokens, contract=rules.use.contract)
        if self._path is not None:
            self._predictor.load(_lengths_path(self._path))
        return self._predictor

    def follow(self, listed: PriceTable) -> bool:
        """The runner's own list: another one means that other programs run. True if so."""
        if listed is self._listed:
            return False
        self._listed = listed
        self.prices.restart(listed)
        return True

    def observe(self, launch: Launch, actual_ms: float) -> None:
        self.prices.observe(launch, actual_ms)
        if launch.key.kind == "decode":
            self._sizes["decode"][len(launch.rows)] += 1
        else:
            self._sizes["prefill"][sum(row.num_tokens for row in launch.rows)] += 1

    def save(self, *, compiled: bool) -> None:
        """Write the files, if there are any to write. ``compiled`` says that all programs are in
        use, so that the prices are those that the next start will want."""
        if self._path is None:
            return
        record = ProfileRecord(
            replace(self.prices.table, scale=1.0) if compiled else read_profile(self._path).prices,
            _bounded(self._sizes["decode"]),
            _bounded(self._sizes["prefill"]),
        )
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(msgspec.json.encode(record))
            unfinished.replace(self._path)
            if self._predictor is not None:
                self._predictor.save(_lengths_path(self._path))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._path, error)


def _lengths_path(path: Path) -> Path:
    return path.with_suffix(".lengths.npz")


def _bounded(counts: Counter[int]) -> dict[int, int]:
    while counts.total() > _MAX_COUNTED:
        for size in list(counts):
            counts[size] //= 2
    return dict(sorted((+counts).items()))
