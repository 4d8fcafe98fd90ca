"""Price lists of simulated devices: analytic ones as tables, and those that engines have saved."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from prelude.conf.simulate import SimDevice
from prelude.engine.profile import ProfileRecord
from prelude.graphs.buckets import Buckets, round_up_tokens
from prelude.types.prices import Curve, PriceTable

_BEND = 4  # how sharply weight reading gives way to arithmetic
_MOST_TOKENS = 65_536


def price_list(device: SimDevice) -> PriceTable:
    """What steps cost on this device. Raises ``ValueError`` for a file that holds no prices."""
    if device.prices is None:
        return analytic(device)
    bundled = files("prelude.conf").joinpath(f"simulate/prices/{device.prices}.json")
    return read_prices(bundled if bundled.is_file() else Path(device.prices))


def analytic(device: SimDevice) -> PriceTable:
    """The roofline of ``SimDevice`` at so many points that straight lines between them are good
    to half a percent."""
    sizes = [1]
    while sizes[-1] < _MOST_TOKENS:
        sizes.append(round_up_tokens(sizes[-1] + 1))
    body = Curve.of({size: _forward_ms(device, size) for size in sizes})
    head = Curve.of({rows: device.row_ms * rows for rows in (1, _MOST_TOKENS)})
    return PriceTable(body, device.ctx_ms, device.pair_ms, (head, head, head))


def _forward_ms(device: SimDevice, num_tokens: int) -> float:
    linear = device.weights_ms**_BEND + (device.token_ms * num_tokens) ** _BEND
    return float(device.floor_ms + linear ** (1 / _BEND))


def read_prices(path: Path | Traversable) -> PriceTable:
    """The list in an engine's profile, or one by itself."""
    data = path.read_bytes()
    try:
        profile = msgspec.json.decode(data, type=ProfileRecord)
        if profile.prices is not None:
            return profile.prices
        return msgspec.json.decode(data, type=PriceTable)
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"device.prices={path}: no price list ({error}); give an engine's profile.json"
        ) from None


def buckets_of(device: SimDevice) -> Buckets:
    """Static shapes, where the device has any."""
    return Buckets(tuple(device.decode_buckets), tuple(device.prefill_buckets), device.max_seqs)
