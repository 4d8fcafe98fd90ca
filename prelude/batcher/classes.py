"""Which service class a sequence is in: by contract, by prediction and by what it has used so far.

Everybody begins as ``fast``, on probation: a quantum of output tokens, counted in device
milliseconds of decoding alone. Whoever uses it up is ``deep``, and fast again, with a new quantum,
when its reasoning ends and its answer begins (PASCAL, HPCA 2026). What is known to be deep skips
the probation (FastServe, NSDI 2026); a long prompt makes a ``doc`` until it is computed. A wish to
be fast is heard by nobody: the class is earned, so lying about it wins at most one quantum. One to
be deep or a document is heard as long as nothing is known: a label that is wrong harms nobody, not
even who bears it.
"""

from prelude.batcher.rules import Rules
from prelude.batcher.sequence import Sequence
from prelude.types.prices import PriceTable
from prelude.types.service import ServiceClass

_SURELY_DEEP = 0.9


def prompt_ms(prices: PriceTable, start: int, end: int, chunk: int) -> float:
    """Price of computing tokens ``start`` to ``end`` of a prompt, in launches of ``chunk``."""
    count = end - start
    full, rest = divmod(count, chunk)
    pairs_ms = prices.ms_per_pair * (count * start + count * (count + 1) / 2)
    chunks_ms = full * prices.body.at(chunk) + (prices.body.at(rest) if rest else 0.0)
    return prices.scale * (chunks_ms + pairs_ms)


class Classifier:
    """Keeps ``Sequence.service_class`` true. ``arrived`` is called once, ``appended`` after every
    output token; both take constant time. ``answer_id`` is the token that ends reasoning."""

    def __init__(self, rules: Rules, answer_id: int | None = None) -> None:
        self._rules = rules
        self._answer_id = answer_id

    def arrived(self, seq: Sequence, uncached_ms: float) -> None:
        """The price of its prompt, as far as no other has computed it already."""
        seq.cost_ms = uncached_ms
        seq.quantum_end = self._rules.quantum
        seq.service_class = "doc" if uncached_ms > self._rules.doc_ms else self._decoding(seq)
        wish = self._wish(seq)
        if wish == "batch" or (wish == "doc" and seq.service_class == "fast"):
            seq.service_class = wish
        if self._rules.use.cost_order:
            config = self._rules.classes[seq.service_class]
            seq.patience = config.patience
            if config.ttft_ms is not None and seq.cost_ms > 0.0:
                seq.patience = min(config.patience, config.ttft_ms / seq.cost_ms)

    def appended(self, seq: Sequence, token_id: int) -> None:
        if seq.service_class == "batch":
            return
        num_output = seq.num_output
        if seq.service_class == "doc":
            seq.service_class = self._decoding(seq)
        if token_id == self._answer_id and seq.request.hints.reasoning != "none":
            seq.quantum_end = num_output + self._rules.quantum
            seq.service_class = "fast"
        elif num_output >= seq.quantum_end and self._rules.use.probation:
            seq.service_class = "deep"

    def _wish(self, seq: Sequence) -> ServiceClass | None:
        """What the request says of itself, until that can be foreseen; what its key says counts."""
        hints, prediction = seq.request.hints, seq.prediction
        wish = hints.service_class
        if wish not in ("deep", "doc") or hints.is_assigned or not self._rules.use.prediction:
            return wish
        return wish if prediction is None else None

    def _decoding(self, seq: Sequence) -> ServiceClass:
        """The class that its answer begins in."""
        rules, hints = self._rules, seq.request.hints
        if rules.use.contract and (hints.is_bounded or seq.max_tokens <= rules.quantum):
            return "fast"
        if self._wish(seq) == "deep" or (rules.use.contract and hints.reasoning == "high"):
            return "deep"
        foreseen = seq.prediction is not None and seq.prediction.p_deep >= _SURELY_DEEP
        return "deep" if rules.use.prediction and foreseen else "fast"
