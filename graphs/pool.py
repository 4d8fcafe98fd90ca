"""The programs of a runner: compiled ones where they are ready, eager code until then.

On CPU a program is a decoder layer (one per attention window of the model, nearly always one), so
there is little to choose and nothing to pad; the bucket key of a launch is its price key.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prelude.conf.schema import Capture, GraphsConfig
from prelude.graphs.compiler import Compilation, LayerJob, has_cpp_compiler
from prelude.graphs.layer_program import CompiledLayers, LayerProgram, program_digest
from prelude.kernels.build import default_cache_dir
from prelude.models.decoder import DecoderLayer, run_layers
from prelude.models.spec import ModelSpec
from prelude.types.plan import ProgramCount

logger = logging.getLogger(__name__)


def choose_capture(config: GraphsConfig) -> Capture:
    """What ``graphs.capture`` means on CPU. Raises ``ValueError`` for the impossible."""
    if config.capture == Capture.cuda:
        raise ValueError("graphs.capture=cuda: on CUDA only; set graphs.capture=auto")
    if config.capture == Capture.eager or has_cpp_compiler():
        return Capture.eager if config.capture == Capture.eager else Capture.inductor
    if config.capture == Capture.inductor:
        raise ValueError(
            "graphs.capture=inductor needs a C++ compiler: install g++, or set graphs.capture=eager"
        )
    logger.warning("no C++ compiler found: running eager, slower; install g++ for compiled steps")
    return Capture.eager


def cache_dir(config: GraphsConfig) -> Path:
    """Where compiled programs and kernels are kept between starts."""
    return Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir()


class LayerPrograms:
    """A ``LayersFn``. ``upkeep`` between steps swaps in what has been compiled meanwhile: all
    kinds of layers at once."""

    def __init__(
        self,
        config: GraphsConfig,
        spec: ModelSpec,
        *,
        dtype: torch.dtype,
        weights: torch.dtype | None = None,
        block_size: int,
        threads: int,
    ) -> None:
        weights = weights or dtype
        self._ready: dict[int, LayerProgram] = {}
        self._jobs: dict[int, Compilation] = {}
        self._total = 0
        self._layers: torch.nn.ModuleList | None = None
        self._compiled: CompiledLayers | None = None
        self._kernels = cache_dir(config) / "kernels"
        if choose_capture(config) == Capture.eager:
            return
        folder = cache_dir(config) / "programs"
        for window in sorted(set(spec.windows)):
            self._total += 1
            digest = program_digest(spec, window, dtype, weights, block_size, threads)
            path = folder / f"layer-{digest}.pt2"
            if not self._load(window, path):
                logger.info("compiling %s in the background", path.name)
                job = LayerJob(
                    *(spec, window, dtype, weights, block_size, threads, path, self._kernels)
                )
                self._jobs[window] = Compilation(job)
        if not config.background:
            for compilation in self._jobs.values():
                compilation.wait()
        self.upkeep()

    def __call__(
        self,
        layers: torch.nn.ModuleList,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Sequence[Tensor],
        *step: Tensor,
    ) -> Tensor:
        if not self._total or len(self._ready) < self._total:
            return run_layers(layers, x, cos, sin, kv, *step)
        if self._compiled is None or self._layers is not layers:
            programs = [self._program(layer) for layer in layers]
            self._compiled = CompiledLayers(layers, programs, self._kernels)
            self._layers = layers
        return self._compiled(x, cos, sin, kv, *step)

    @property
    def count(self) -> ProgramCount:
        return ProgramCount(len(self._ready), self._total)

    def upkeep(self) -> bool:
        """Load finished packages: milliseconds. A failed compilation leaves eager code in place.
        True if other code runs from now on."""
        if not self._jobs:
            return False
        for window, compilation in list(self._jobs.items()):
            if not compilation.is_done:
                continue
            del self._jobs[window]
            path = compilation.job.path
            compilation.cancel()
            if compilation.failed or not self._load(window, path):
                logger.warning(
                    "compiling failed, see %s: this model keeps running eager; "
                    "graphs.capture=eager silences this",
                    compilation.log_path,
                )
            else:
                logger.info("compiled program %s is in use", path.name)
        return not self._jobs and len(self._ready) == self._total

    def close(self) -> None:
        for compilation in self._jobs.values():
            compilation.cancel()
        self._jobs.clear()

    def _program(self, layer: torch.nn.Module) -> LayerProgram:
        assert isinstance(layer, DecoderLayer)
        return self._ready[layer.window]

    def _load(self, window: int, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            self._ready[window] = LayerProgram(path, self._kernels)
        except RuntimeError as error:
            logger.warning("%s cannot be loaded (%s); it will be compiled again", path, error)
            path.unlink()
            return False
        return True
