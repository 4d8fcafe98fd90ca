"""Both backends of the attention ops against the float64 reference, eager and compiled."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prelude.kernels import attention, attention_reference, build
from prelude.kernels.attention import AttentionMeta, append, attend, select_backend
from tests.kernel_cases import Case, make_case

# Inductor imports a part of torch that warns about another part of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")

ROW = st.tuples(st.sampled_from([0, 1, 1, 1, 2, 7, 19, 40]), st.sampled_from([0, 0, 1, 15, 16, 50]))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(params=["cpu", "torch"])
def backend(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[str]:
    yield select_backend(request.param, cache_dir)
    select_backend("torch")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(case: Case) -> Tensor:
    kv = case.kv.clone()
    append(case.k, case.v, kv, case.meta)
    out = torch.full(case.q.shape, torch.nan)
    attend(case.q, kv, case.meta, case.scale, out, case.window)
    return out


def check(case: Case) -> None:
    torch.testing.assert_close(run(case).double(), case.expected(), atol=2e-5, rtol=1e-4)


# ---- the reference itself


def test_reference_is_softmax_attention_over_the_rows_own_context() -> None:
    case = make_case([(5, 0), (3, 4)], kv_heads=2, group=3, head_dim=8)
    kv = case.kv.double()
    attention_reference.append(case.k.double(), case.v.double(), kv, case.meta)
    expected = case.expected()
    start = 0
    for row, (num_new, ctx) in enumerate([(5, 5), (3, 7)]):
        flat = kv[case.meta.block_tables[row].long()].transpose(1, 2).flatten(0, 1)[:ctx]
        keys, values = flat.unbind(1)  # [ctx, kv_heads, head_dim]
        mask = torch.ones(num_new, ctx, dtype=torch.bool).tril(ctx - num_new)
        out = torch.nn.functional.scaled_dot_product_attention(
            case.q[start : start + num_new].double().transpose(0, 1),
            keys.transpose(0, 1).repeat_interleave(3, 0),
            values.transpose(0, 1).repeat_interleave(3, 0),
            attn_mask=mask,
        )
        torch.testing.assert_close(expected[start : start + num_new], out.transpose(0, 1))
        start += num_new


def test_reference_window_of_one_sees_itself_alone() -> None:
    case = make_case([(3, 5)], group=1, window=1)
    torch.testing.assert_close(case.expected(), case.v.double())


# ---- backends against it


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    block=st.sampled_from([8, 16, 32]),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 3, 4, 8]),
    head_dim=st.sampled_from([8, 20, 32, 64]),
    window=st.sampled_from([0, 0, 1, 5, 16, 33]),
    seed=st.integers(0, 1000),
)
def test_random_mixes(backend: str, rows: list[tuple[int, int]], **shape: int) -> None:
    check(make_case(rows, **shape))


@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("window", [0, 20])
def test_shapes_of_real_models(backend: str, head_dim: int, group: int, window: int) -> None:
    rows = [(1, 40), (21, 0), (0, 1), (9, 30), (1, 0)]
    check(make_case(rows, head_dim=head_dim, group=group, window=window, block=16))


@pytest.mark.parametrize("block", [1, 5, 8, 16, 32, 64])
def test_block_sizes(backend: str, block: int) -> None:
    check(make_case([(1, 70), (33, 33), (2, 3)], block=block))


@pytest.mark.parametrize("rows", [[(1, 1100)], [(3, 1500), (1, 20)], [(12, 600)], [(70, 460)]])
@pytest.mark.parametrize("window", [0, 700])
def test_long_contexts_cut_into_ranges(
    backend: str, rows: list[tuple[int, int]], window: int
) -> None:
    check(make_case(rows, kv_heads=1, group=2, head_dim=16, window=window))


def test_many_tiles_of_one_row(backend: str) -> None:
    check(make_case([(150, 10)], kv_heads=4, group=1, head_dim=16))


def test_two_threads(backend: str) -> None:
    torch.set_num_threads(2)
    check(make_case([(1, 600), (30, 0), (100, 7)], kv_heads=2, head_dim=16))


def test_tokens_past_the_rows_become_zero(backend: str) -> None:
    out = run(make_case([(2, 3), (1, 0)], spare_tokens=4))
    assert torch.equal(out[3:], torch.zeros_like(out[3:]))
    assert out[:3].isfinite().all()


def test_only_padding_rows(backend: str) -> None:
    case = make_case([(0, 1), (0, 0)], spare_tokens=2)
    assert torch.equal(run(case), torch.zeros_like(case.q))


def test_sharp_scores_do_not_overflow(backend: str) -> None:
    case = make_case([(1, 30), (20, 3)])
    sharp = Case(case.q * 300, case.k, case.v, case.kv, case.meta, case.scale, 0)
    out = run(sharp)
    torch.testing.assert_close(out.double(), sharp.expected(), atol=1e-3, rtol=1e-3)


def test_strided_output_and_sliced_tables(backend: str) -> None:
    case = make_case([(4, 9), (1, 20)])
    kv = case.kv.clone()
    append(case.k, case.v, kv, case.meta)
    wide = torch.zeros(2, 9, dtype=torch.int32)
    wide[:, : case.meta.block_tables.shape[1]] = case.meta.block_tables
    sliced = wide[:, : case.meta.block_tables.shape[1]]
    out = torch.zeros(5, 4, 64)[:, :, :32]
    attend(case.q, kv, case.meta._replace(block_tables=sliced), case.scale, out)
    torch.testing.assert_close(out.double(), case.expected(), atol=2e-5, rtol=1e-4)


def test_append_writes_the_slots_and_nothing_else(backend: str) -> None:
    case = make_case([(3, 7), (1, 0), (20, 16)])
    kv, expected = case.kv.clone(), case.kv.clone()
    append(case.k, case.v, kv, case.meta)
    attention_reference.append(case.k, case.v, expected, case.meta)
    assert torch.equal(kv.nan_to_num(7.0), expected.nan_to_num(7.0))


# ---- independence of the batch


@pytest.mark.parametrize("row", [(1, 1200), (1, 30), (6, 90), (40, 600)])
def test_a_rows_bits_do_not_depend_on_batch_or_threads(
    cache_dir: Path, row: tuple[int, int]
) -> None:
    select_backend("cpu", cache_dir)
    mixed = make_case([(17, 5), row, (1, 300), (1, 0)], head_dim=64, group=4, seed=3)
    kv = mixed.kv.clone()
    append(mixed.k, mixed.v, kv, mixed.meta)
    outputs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = torch.empty(mixed.q.shape)
        attend(mixed.q, kv, mixed.meta, mixed.scale, out)
        outputs.append(out[17 : 17 + row[0]])
    alone = AttentionMeta(
        torch.tensor([0, row[0]], dtype=torch.int32),
        mixed.meta.ctx_lens[1:2],
        mixed.meta.block_tables[1:2],
        mixed.meta.slot_mapping[:0],
    )
    out = torch.empty(row[0], *mixed.q.shape[1:])
    attend(mixed.q[17 : 17 + row[0]], kv, alone, mixed.scale, out)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], out)
    select_backend("torch")


# ---- under torch.compile and torch's own checks


def layer(q: Tensor, k: Tensor, v: Tensor, kv: Tensor, meta: AttentionMeta) -> Tensor:
    out = torch.empty_like(q)
    append(k * 2.0, v, kv, meta)
    attend(q + 1.0, kv, meta, 0.3, out)
    return out * 2.0


def test_compiles_whole_with_dynamic_shapes_and_no_copy_of_the_pool(backend: str) -> None:
    torch._dynamo.reset()
    compiled: Callable[..., Any] = torch.compile(layer, fullgraph=True, dynamic=True)
    # No two sizes of the first case are equal, or Dynamo takes them for one.
    first, *others = [(1, 99), (5, 0), (3, 1), (2, 2)], [(1, 3), (1, 33), (0, 1)], [(30, 0)] * 5
    for rows in (first, *others):
        case = make_case(rows, group=4)
        kv, eager_kv = case.kv.clone(), case.kv.clone()
        address = kv.data_ptr()
        with torch._dynamo.config.patch(error_on_recompile=rows is not first):
            out = compiled(case.q, case.k, case.v, kv, case.meta)
        torch.testing.assert_close(out, layer(case.q, case.k, case.v, eager_kv, case.meta))
        assert kv.data_ptr() == address
        assert torch.equal(kv.nan_to_num(7.0), eager_kv.nan_to_num(7.0))


def test_generated_code_clones_no_pool(backend: str) -> None:
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    case = make_case([(1, 20), (5, 0)])
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    _, codes = run_and_get_code(compiled, case.q, case.k, case.v, case.kv.clone(), case.meta)
    assert len(re.findall(r"prelude\.append\.default\(", codes[0])) == 1
    assert "clone" not in codes[0] and "copy_" not in codes[0]


def test_opcheck(backend: str) -> None:
    case = make_case([(1, 20), (5, 0)])
    kv = case.kv.nan_to_num(0.0)
    meta, out = case.meta, torch.empty(case.q.shape)
    torch.library.opcheck(torch.ops.prelude.append, (case.k, case.v, kv, meta.slot_mapping))
    tensors = (case.q, kv, meta.cu_q, meta.ctx_lens, meta.block_tables)
    torch.library.opcheck(torch.ops.prelude.attend, (*tensors, case.scale, 0, out))


# ---- errors


def broken(**changes: Tensor) -> Case:
    case = make_case([(2, 3), (1, 20)])
    return Case(case.q, case.k, case.v, case.kv, case.meta._replace(**changes), case.scale, 0)


def test_slots_outside_the_pool_are_refused(backend: str) -> None:
    for bad in (-1, 10**6):
        case = broken(slot_mapping=torch.tensor([16, 17, bad]))
        with pytest.raises(IndexError, match="slot"):
            append(case.k, case.v, case.kv.clone(), case.meta)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_q": torch.tensor([0, 2, 9], dtype=torch.int32)}, "cu_q"),
        ({"cu_q": torch.tensor([0, 2, 1], dtype=torch.int32)}, "cu_q"),
        ({"cu_q": torch.tensor([1, 2, 3], dtype=torch.int32)}, "cu_q"),
        ({"ctx_lens": torch.tensor([1, 21], dtype=torch.int32)}, "ctx_lens"),
        ({"ctx_lens": torch.tensor([5, 99], dtype=torch.int32)}, "ctx_lens"),
        ({"block_tables": torch.tensor([[1, 2], [3, 77]], dtype=torch.int32)}, "block_tables"),
        ({"block_tables": torch.tensor([[1, 2], [3, 4]])}, "int32"),
        ({"ctx_lens": torch.tensor([5, 21])}, "int32"),
    ],
)
def test_broken_metadata_is_refused(
    cache_dir: Path, changes: dict[str, Tensor], message: str
) -> None:
    select_backend("cpu", cache_dir)
    case = broken(**changes)
    with pytest.raises(ValueError, match=message):
        attend(case.q, case.kv, case.meta, case.scale, torch.empty(case.q.shape))
    select_backend("torch")


def test_other_types_are_refused(cache_dir: Path) -> None:
    select_backend("cpu", cache_dir)
    case = make_case([(2, 3)])
    out = torch.empty(case.q.shape)
    with pytest.raises(ValueError, match="float32"):
        attend(case.q.bfloat16(), case.kv, case.meta, case.scale, out)
    with pytest.raises(ValueError, match="kv must be"):
        attend(case.q, case.kv.double(), case.meta, case.scale, out)
    with pytest.raises(ValueError, match="out must be"):
        attend(case.q, case.kv, case.meta, case.scale, out.double())
    with pytest.raises(ValueError, match="int64"):
        slots = case.meta.slot_mapping.int()
        append(case.k, case.v, case.kv, case.meta._replace(slot_mapping=slots))
    select_backend("torch")


# ---- choosing


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, cpu, torch"):
        select_backend("cuda")


def test_auto_is_cpu_where_it_compiles(cache_dir: Path) -> None:
    assert select_backend("auto", cache_dir) == "cpu"
    assert select_backend("torch") == "torch"


def test_auto_without_a_compiler_warns_and_runs_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "_COMPILERS", ("no-such-compiler",))
    with caplog.at_level(logging.WARNING, logger=attention.__name__):
        assert select_backend("auto", tmp_path) == "torch"
    assert "install g++" in caplog.text
    with pytest.raises(build.CompileError, match="install g\\+\\+"):
        select_backend("cpu", tmp_path)
    check(make_case([(2, 3)]))
