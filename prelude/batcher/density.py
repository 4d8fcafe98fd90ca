"""How dense the work of a request is: device milliseconds for every token it answers with."""

from typing import NamedTuple

from prelude.batcher.classes import prompt_ms
from prelude.types.prices import PriceTable
from prelude.types.request import SampleMode


class Work(NamedTuple):
    """Device milliseconds of a request's prompt and of decoding its ``num_output`` tokens."""

    prefill_ms: float
    decode_ms: float
    num_output: float

    @property
    def total_ms(self) -> float:
        return self.prefill_ms + self.decode_ms

    @property
    def density_ms(self) -> float:
        """Milliseconds a token of the answer."""
        return self.total_ms / max(self.num_output, 1.0)


def work_of(
    prices: PriceTable,
    num_prompt: int,
    num_output: float,
    *,
    num_cached: int = 0,
    num_rows: int = 1,
    chunk: int = 512,
    mode: SampleMode = "greedy",
) -> Work:
    """The price of a prompt of which ``num_cached`` tokens have KV already, in launches of
    ``chunk`` tokens, the first answer token's sampling included, and this sequence's share of
    decode steps of ``num_rows`` rows. ``num_output`` may be a prediction."""
    head_ms = prices.scale * prices.head(mode).at(1)
    prefill_ms = prompt_ms(prices, num_cached, num_prompt, chunk) + head_ms
    row_ms = (prices.body.at(num_rows) + prices.head(mode).at(num_rows)) / num_rows
    num_steps = max(num_output - 1.0, 0.0)
    mean_ctx = num_prompt + (num_steps + 1.0) / 2.0
    decode_ms = prices.scale * num_steps * (row_ms + prices.ms_per_ctx_token * mean_ctx)
    return Work(prefill_ms, decode_ms, num_output)
