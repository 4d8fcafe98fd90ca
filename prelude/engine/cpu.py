"""A start on CPU: C++ kernels, programs from the cache or compiled beside the serving engine."""

from dataclasses import replace

from prelude.cache.sizing import check_weights, explained, host_memory_bytes
from prelude.conf.schema import Config, Overlap
from prelude.engine.prepare import (
    Model,
    Started,
    file_bytes,
    host_size,
    layout_of,
    make_decoder,
    memory_of,
    pool_size,
    profile_name,
    say_host,
    say_size,
)
from prelude.engine.profile import read_profile
from prelude.engine.startup import Startup
from prelude.graphs.buckets import Buckets
from prelude.graphs.pool import LayerPrograms, cache_dir
from prelude.kernels.attention import select_backend
from prelude.kernels.build import compile_together
from prelude.kernels.linear import select_linear
from prelude.kernels.pages import placed_in
from prelude.runner.model import ModelRunner
from prelude.runner.threaded import ThreadedRunner


def cpu_runner(config: Config, model: Model, start: Startup) -> Started:
    """Everything between a configuration and a runner that takes plans."""
    with start.phase("building kernels"):
        kernels = cache_dir(config.graphs) / "kernels"
        wanted = {"attention": config.attention.backend.value, "linear": config.runner.linear.value}
        compile_together([name for name, backend in wanted.items() if backend != "torch"], kernels)
        invariant = config.runner.batch_invariant
        attention = select_backend(wanted["attention"], kernels, invariant=invariant)
        linear = select_linear(wanted["linear"], kernels)
        start.rule("kernels", f"attention {attention}, linear {linear}", "cpu where C++ compiles")
        if invariant:
            _check_invariant(attention, linear)
    memory = memory_of(config, model)
    early = start.early
    if early is None:
        check_weights(memory, host_memory_bytes())
    with start.phase("loading weights") as phase, explained(memory, 0):
        with placed_in(early.take() if early else None):
            decoder = make_decoder(config, model, start)
        phase.read_bytes += file_bytes(config, model)
    with start.phase("sizing cache"):
        layout = layout_of(config, model)
        size = pool_size(config, model, layout, memory, host_memory_bytes())
        say_size(config, start, size, layout, memory)
    with start.phase("loading programs"):
        programs = _programs(config, model, start)
    kind = (model.spec, model.memory_dtype, model.threads, layout.block_size, attention, linear)
    path = cache_dir(config.graphs) / "profiles" / profile_name(*kind, programs.count.total)
    ready = programs.count.ready == programs.count.total
    prices = read_profile(path).prices if ready else None
    why = "from the profile in the cache" if prices else "the cache has none for these programs"
    start.rule("prices", "remembered" if prices else "measured", why)
    kv_bytes = size.num_blocks * layout.block_bytes
    with start.phase("measuring prices"), explained(memory, kv_bytes):
        runner = ModelRunner(
            decoder,
            layout,
            num_blocks=size.num_blocks,
            num_host_blocks=host_size(config, layout),
            max_len=size.max_len,
            max_seqs=config.runner.max_seqs,
            programs=programs,
            prices=prices,
        )
    say_host(config, start, runner, layout)
    threaded = config.runner.overlap == Overlap.always
    return Started(ThreadedRunner(runner) if threaded else runner, path, Buckets())


def _programs(config: Config, model: Model, start: Startup) -> LayerPrograms:
    """Eager and compiled code differ in last bits: where these matter, no swap while serving."""
    graphs = config.graphs
    if config.runner.batch_invariant:
        graphs = replace(graphs, background=False)
    programs = LayerPrograms(
        graphs,
        model.spec,
        dtype=model.dtype,
        weights=model.weights,
        block_size=config.cache.block_size,
        threads=model.threads,
    )
    count = programs.count
    state = f"{count.ready} of {count.total} in use" if count.total else "eager"
    start.rule("programs", state, "one for each kind of layer, where a C++ compiler is found")
    start.rule("buckets", "none", "shapes are free on CPU: nothing is padded")
    return programs


def _check_invariant(attention: str, linear: str) -> None:
    if attention != "cpu" or linear != "cpu":
        raise ValueError(
            f"runner.batch_invariant=true: needs the C++ kernels, found attention {attention} and "
            f"linear {linear}; install g++ and leave attention.backend and runner.linear at auto"
        )
