"""Compiled layers, run in one call, against the eager ones."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prelude.conf.schema import GraphsConfig
from prelude.graphs.layer_program import CompiledLayers, LayerProgram, compile_driver
from prelude.graphs.pool import LayerPrograms
from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder, run_layers
from prelude.models.loading import random_decoder
from prelude.models.spec import ModelSpec, read_spec
from prelude.types.plan import ProgramCount

CPU = torch.device("cpu")
BLOCK = 8
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "use_sliding_window": True,
    "sliding_window": 4,
    "max_window_layers": 2,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    found = read_spec(CONFIG)
    assert sorted(set(found.windows)) == [0, 4]
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def programs(spec: ModelSpec, cache: Path) -> Iterator[LayerPrograms]:
    config = GraphsConfig(background=False, cache_dir=str(cache))
    made = LayerPrograms(config, spec, dtype=torch.float32, block_size=BLOCK, threads=1)
    assert made.count == ProgramCount(2, 2)
    yield made
    made.close()


@pytest.fixture
def decoder(spec: ModelSpec) -> Decoder:
    return random_decoder(spec, torch.float32, CPU, seed=0, scale=0.3)


def step(decoder: Decoder, rows: int = 2, context: int = 7) -> list[Any]:
    """Arguments of a ``LayersFn`` after the layers: new tokens of one row each, and their KV."""

    def ints(values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32)

    generator = torch.Generator().manual_seed(rows)
    spec = decoder.spec
    shape = (rows + 1, 2, BLOCK, spec.num_kv_heads, spec.head_dim)
    kv = [torch.randn(shape, generator=generator) for _ in range(spec.num_layers)]
    meta = AttentionMeta(
        ints(list(range(rows + 1))),
        ints([context] * rows),
        ints([[row + 1] for row in range(rows)]),
        torch.arange(1, rows + 1) * BLOCK + context - 1,
    )
    x = torch.randn(rows, spec.hidden_size, generator=generator)
    return [x, *decoder.rotary(torch.full((rows,), context - 1)), kv, *meta]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "context"), [(1, 1), (1, 5), (2, 8), (5, 3)])
def test_all_layers_in_one_call_equal_the_eager_ones(
    rows: int, context: int, programs: LayerPrograms, decoder: Decoder
) -> None:
    expected = step(decoder, rows, context)
    found = step(decoder, rows, context)
    with torch.inference_mode():
        same(programs(decoder.layers, *found), run_layers(decoder.layers, *expected))
    for ours, theirs in zip(found[3], expected[3], strict=True):
        same(ours, theirs)


def test_as_many_layers_as_there_is_kv(programs: LayerPrograms, decoder: Decoder) -> None:
    for count in (0, 1, 3):
        args, expected = step(decoder), step(decoder)
        args[3], expected[3] = args[3][:count], expected[3][:count]
        same(programs(decoder.layers, *args), run_layers(decoder.layers, *expected))


def test_another_decoder_has_its_own_weights(programs: LayerPrograms, spec: ModelSpec) -> None:
    for seed in (1, 2, 1):
        decoder = random_decoder(spec, torch.float32, CPU, seed=seed, scale=0.3)
        expected = run_layers(decoder.layers, *step(decoder))
        same(programs(decoder.layers, *step(decoder)), expected)


def test_weights_are_not_copied(programs: LayerPrograms, decoder: Decoder) -> None:
    programs(decoder.layers, *step(decoder))
    for parameter in decoder.layers.parameters():
        parameter.data.mul_(0.5)
    same(programs(decoder.layers, *step(decoder)), run_layers(decoder.layers, *step(decoder)))


def test_more_kv_than_layers_is_refused(programs: LayerPrograms, decoder: Decoder) -> None:
    args = step(decoder)
    args[3] = [*args[3], args[3][0]]
    with pytest.raises(RuntimeError, match="size"):
        programs(decoder.layers, *args)


def test_an_error_in_an_op_comes_out(programs: LayerPrograms, decoder: Decoder) -> None:
    args = step(decoder)
    args[-1] = args[-1] + 10**6  # slots
    with pytest.raises(RuntimeError):
        programs(decoder.layers, *args)


def test_the_driver_is_loaded_once_whatever_the_folder(
    programs: LayerPrograms, cache: Path, tmp_path: Path, decoder: Decoder
) -> None:
    found = []
    for package in (cache / "programs").glob("*.pt2"):  # one for each window
        layers = CompiledLayers(decoder.layers, [LayerProgram(package, tmp_path)] * 3, tmp_path)
        found.append(layers(*step(decoder, context=3)))  # shorter than the window
    assert not list(tmp_path.iterdir())
    for output in found:
        same(output, run_layers(decoder.layers, *step(decoder, context=3)))


def test_a_broken_package_is_a_runtime_error(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"no package")
    with pytest.raises(RuntimeError):
        LayerProgram(path, cache / "kernels")


def test_the_driver_is_compiled_with_the_programs(programs: LayerPrograms, cache: Path) -> None:
    (library,) = (cache / "kernels").glob("layers-*.so")
    written = library.stat().st_mtime_ns
    assert compile_driver(cache / "kernels") == library
    assert library.stat().st_mtime_ns == written


def test_threads_may_run_the_same_layers(programs: LayerPrograms, decoder: Decoder) -> None:
    expected = run_layers(decoder.layers, *step(decoder))
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            found.append(programs(decoder.layers, *step(decoder)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for each in found:
        same(each, expected)
