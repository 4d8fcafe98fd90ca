"""From a configuration to a running engine, and the report of what that took and why."""

import logging
from pathlib import Path
from threading import Event

from prelude.batcher.rules import unmet_targets
from prelude.conf.schema import Config, Overlap, Policy
from prelude.engine.core import EngineCore
from prelude.engine.cpu import cpu_runner
from prelude.engine.cuda import cuda_runner
from prelude.engine.early import EarlyMemory
from prelude.engine.grammars import Grammars
from prelude.engine.prepare import Model, resolve
from prelude.engine.profile import Profile
from prelude.engine.startup import Progress, Startup
from prelude.engine.steplog import StepLog
from prelude.models.generation_config import read_eos_ids
from prelude.models.paths import tokenizer_folder
from prelude.models.reasoning import read_answer_id
from prelude.text.grammar import GrammarCompiler
from prelude.types.wire import EngineInfo

logger = logging.getLogger(__name__)


def build_engine(
    config: Config,
    progress: Progress = lambda phase, fraction: None,
    before_s: float = 0.0,
    early: EarlyMemory | None = None,
    quiet: Event | None = None,
) -> tuple[EngineCore, EngineInfo]:
    """Load the model, allocate the cache, start compiling. ``progress`` gets (phase, fraction),
    ``before_s`` is how old the process is, ``early`` memory for the weights; at ``quiet`` what
    nobody has asked for yet is made ready. Raises ``ValueError`` with what to change where the
    configuration cannot be met."""
    start = Startup(progress, before_s, early)
    with start.phase("reading config"):
        model = resolve(config, start)
    started = (cuda_runner if model.device.type == "cuda" else cpu_runner)(config, model, start)
    eos_ids = read_eos_ids(model.folder) if model.folder else model.spec.eos_ids
    core = EngineCore(
        started.runner,
        batcher=config.batcher,
        cache=config.cache,
        max_seqs=config.runner.max_seqs,
        eos_ids=eos_ids,
        log=StepLog(Path(config.log.steps) if config.log.steps else None),
        profile=Profile(
            started.runner.prices, padded=started.buckets.is_static, path=started.profile_path
        ),
        buckets=started.buckets,
        overlap=config.runner.overlap != Overlap.never,
        answer_id=_answer_id(config, model),
        grammars=_grammars(config, model, eos_ids, quiet),
    )
    _say_budgets(config, core, start)
    start.finish()
    info = _info(config, model, core, eos_ids, start)
    logger.info("%s on %s (%s)", info.model_name, info.device, info.weights or info.dtype)
    for line in start.lines():
        logger.info("%s", line)
    return core, info


def _answer_id(config: Config, model: Model) -> int | None:
    """A model that is only a shape need not have a tokenizer."""
    if model.folder is None and config.model.tokenizer is None:
        return None
    return read_answer_id(tokenizer_folder(config.model))


def _grammars(
    config: Config, model: Model, eos_ids: tuple[int, ...], quiet: Event | None
) -> Grammars:
    if model.folder is None and config.model.tokenizer is None:
        return Grammars()
    path = tokenizer_folder(config.model) / "tokenizer.json"
    if not path.is_file():
        return Grammars()
    compiler = GrammarCompiler(path, model.spec.vocab_size, eos_ids)
    if quiet is not None:
        compiler.warm_when(quiet)
    return Grammars(compiler)


def _say_budgets(config: Config, core: EngineCore, start: Startup) -> None:
    if config.batcher.step_ms is None:
        start.rule("step", f"{core.step_ms:.0f} ms while streams run", "three decodes, at least 50")
    rules = core.rules
    if config.batcher.idle_step_ms is None:
        by_class = config.batcher.policy == Policy.class_aware
        idle_ms = rules.idle_ms if by_class else core.idle_step_ms
        why = "six decodes, at least a step" if by_class else "ten times as much"
        start.rule("idle step", f"{idle_ms:.0f} ms while none does", why)
    start.rule("probation", f"{rules.quantum} output tokens", "a price in decode steps of one")
    start.rule("document", f"from {rules.doc_ms:.0f} ms of prompt", "16 steps unless it is set")
    for line in unmet_targets(rules, core.profile.prices.table):
        logger.warning("%s", line)


def _info(
    config: Config, model: Model, core: EngineCore, eos_ids: tuple[int, ...], start: Startup
) -> EngineInfo:
    path = str(model.folder or config.model.path)
    return EngineInfo(
        model_name=config.model.name or Path(path).name,
        model_path=path,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        max_len=core.runner.max_len,
        vocab_size=model.spec.vocab_size,
        eos_ids=list(eos_ids),
        num_blocks=core.runner.num_blocks - 1,
        block_size=core.runner.block_size,
        max_seqs=config.runner.max_seqs,
        startup_s=start.seconds,
        startup_bytes={n: (p.read_bytes, p.allocated_bytes) for n, p in start.phases.items()},
        rules=start.rules,
        weights=model.memory_dtype if model.weights else None,
    )
