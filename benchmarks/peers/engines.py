"""The engines that can be compared: how each worker is started, and which of ours it is held
against: quantized weights against quantized weights."""

from dataclasses import dataclass, field

from prelude.openmp import SPIN_COUNT

INT8_BYTES = 1.0
Q8_0_BYTES = 34 / 32  # 32 values and their fp16 scale
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Engine:
    """``module`` names the worker's engine and the interpreter; ``rival`` the one of ours that it
    is compared with; ``environment`` is what it reads there and has no argument for; ``gguf`` the
    kind of file it needs; ``weight_bytes`` what a value of a matrix takes, scales included."""

    module: str
    rival: str = "prelude"
    overrides: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    gguf: str | None = None
    weight_bytes: float = 4.0


# As our command line does; the worker loads torch before it.
_OURS = {"GOMP_SPINCOUNT": SPIN_COUNT}
_VLLM = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}

ENGINES = {
    "prelude": Engine("prelude", environment=_OURS),
    "prelude-int8": Engine(
        "prelude", "prelude-int8", ("model.weights=int8",), _OURS, weight_bytes=INT8_BYTES
    ),
    "transformers": Engine("transformers"),
    "vllm": Engine("vllm", environment=_VLLM),
    "llamacpp": Engine("llamacpp", overrides=("weights=f32",), gguf="f32"),
    "llamacpp-q8_0": Engine(
        "llamacpp", "prelude-int8", ("weights=q8_0",), gguf="q8_0", weight_bytes=Q8_0_BYTES
    ),
}
OURS = [name for name, engine in ENGINES.items() if engine.module == "prelude"]
PEERS = [name for name in ENGINES if name not in OURS]


def lineup(peers: list[str]) -> list[str]:
    """Who takes turns: those of ours that the peers are held against, then the peers."""
    rivals = {ENGINES[peer].rival for peer in peers} | {"prelude"}
    return [name for name in OURS if name in rivals] + peers
