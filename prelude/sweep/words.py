"""Numbers and names as people write them."""

from collections.abc import Sequence

from prelude.sweep.measures import is_higher_better, metric_of
from prelude.sweep.study import Gain, Values

_METRICS = {
    "ttft_ms": "TTFT",
    "itl_ms": "ITL",
    "tpot_ms": "time per token",
    "stall_ms": "longest gap",
    "e2e_ms": "end to end",
    "queue_ms": "wait",
    "step_ms": "step",
    "slowdown": "slowdown",
    "output_tok_s": "output tokens/s",
    "prompt_tok_s": "prompt tokens/s",
    "req_s": "requests/s",
    "goodput_req_s": "good requests/s",
    "attainment": "share within targets",
    "num_failed": "failed requests",
}
TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_FACTOR = 1.5  # from here on a ratio is said as "so many times"


_SELF_SAID = ("policy", "mix", "use", "workload", "model", "batcher", "device", "preset")


def metric_name(name: str) -> str:
    """``chat.ttft_ms.p99`` as "chat TTFT p99"."""
    metric = metric_of(name)
    kind, _, rest = name.partition(f".{metric}")
    text = _METRICS.get(metric, metric.replace("_", " "))
    return " ".join(part for part in ("" if kind == "total" else kind, text, rest[1:]) if part)


def amount(value: float, name: str = "") -> str:
    """Three digits; the unit where the metric's name says milliseconds or a share."""
    metric = metric_of(name)
    if metric.endswith("_ms"):
        return f"{digits(value / 1e3)} s" if abs(value) >= 1000 else f"{digits(value)} ms"
    if metric in ("attainment", "busy"):
        return f"{value:.1%}".replace("%", " %")
    return digits(value)


def digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def gain_words(gain: Gain, name: str) -> str:
    """What happened to the metric, not whether that is good: "6.2x lower", "3 % higher"."""
    grown = gain.factor if is_higher_better(name) else 1 / gain.factor
    if abs(grown - 1) < 0.005:
        return "equal"
    word = "higher" if grown > 1 else "lower"
    times = max(grown, 1 / grown)
    if times >= _FACTOR:
        return f"{times:.{1 if times < 10 else 0}f}{TIMES} {word}"
    return f"{abs(grown - 1) * 100:.{0 if abs(grown - 1) > 0.095 else 1}f} % {word}"


def interval_words(gain: Gain) -> str:
    """Of the factor."""
    if gain.low is None or gain.high is None:
        return ""
    places = 3 if abs(gain.low - 1) < 0.1 and abs(gain.high - 1) < 0.1 else 2
    return f"{gain.low:.{places}f} {DASH} {gain.high:.{places}f}{TIMES}"


def labels(values: Sequence[Values], empty: str = "all") -> dict[Values, str]:
    """Short names: the last parts of keys, and none where the value says enough."""
    keys = list(dict.fromkeys(key for pairs in values for key, _ in pairs))
    short = {key: key.rpartition(".")[2] for key in keys}
    if len(set(short.values())) < len(keys):
        short = {key: key for key in keys}
    said = {key: "" if short[key] in _SELF_SAID else f"{short[key]} " for key in keys}
    return {
        pairs: ", ".join(f"{said[key]}{_plain(value)}" for key, value in pairs) or empty
        for pairs in values
    }


def _plain(value: str) -> str:
    """Of ``{park: false}`` what it says."""
    text = value.strip("{}'\"")
    if value.startswith("{"):
        return text.replace(":", " ").replace("  ", " ").replace(" false", " off") or "all on"
    return text
