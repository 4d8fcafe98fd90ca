"""Paged attention in Triton against the float64 reference, contexts and outputs poisoned."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prelude.kernels import attention_torch
from prelude.kernels.triton.attention import attend
from prelude.kernels.triton.prefill import attend_ragged
from tests.bits import assert_same_bits
from tests.kernel_cases import Case, make_case

DTYPES = [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3}


def moved(case: Case, device: torch.device, dtype: torch.dtype) -> Case:
    """The case on a device; the views of one fused projection stay views of one."""
    tokens = case.q.shape[0]
    fused = torch.cat([x.flatten(1) for x in (case.q, case.k, case.v)], 1).to(device, dtype)
    sizes = [x[0].numel() for x in (case.q, case.k, case.v)]
    q, k, v = (part.view(tokens, -1, case.q.shape[2]) for part in torch.split(fused, sizes, dim=1))
    meta = type(case.meta)(*(x.to(device) for x in case.meta))
    return Case(q, k, v, case.kv.to(device, dtype), meta, case.scale, case.window)


def append(k: Tensor, v: Tensor, kv: Tensor, slots: Tensor) -> None:
    """A slot below 0 is padding's."""
    kept = slots >= 0
    attention_torch.append(k[kept], v[kept], kv, slots[kept])


def result(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Output of append and attend; where nothing is written, NaN is left."""
    case = moved(case, device, dtype)
    out = torch.full(case.q.shape, torch.nan, device=device, dtype=dtype)
    append(case.k, case.v, case.kv, case.meta.slot_mapping)
    meta = case.meta
    tables = (meta.cu_q, meta.ctx_lens, meta.block_tables)
    attend(case.q, case.kv, *tables, case.scale, case.window, out)
    return out.cpu()


def check(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    got, expected = result(case, device, dtype).double(), case.expected()
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def decode_case(contexts: Sequence[int], **options: int) -> Case:
    return make_case([(1, ctx - 1) for ctx in contexts], **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 20])
def test_decode(device: torch.device, dtype: torch.dtype, window: int) -> None:
    check(decode_case([1, 150, 64, 65], window=window), device, dtype)


@pytest.mark.parametrize(("group", "kv_heads", "head_dim"), [(1, 3, 80), (4, 2, 32), (5, 1, 80)])
def test_decode_of_other_shapes(
    device: torch.device, group: int, kv_heads: int, head_dim: int
) -> None:
    shape = {"group": group, "kv_heads": kv_heads, "head_dim": head_dim, "block": 8}
    check(decode_case([130, 3], **shape), device)


def test_one_long_row_among_short_ones_is_split(device: torch.device) -> None:
    check(decode_case([400, 1, 1, 2]), device)


def test_decode_counters_are_ready_for_the_next_launch(device: torch.device) -> None:
    case = decode_case([300, 200], seed=1)
    first = result(case, device)
    assert torch.equal(first, result(case, device))


def test_padding_rows_of_decode_are_harmless(device: torch.device) -> None:
    """Context 0 gives zeros; context 1 on block 0 gives what block 0 holds."""
    case = decode_case([40, 1, 1])
    expected = case.expected()[0]
    case.meta.ctx_lens[1] = 0
    case.meta.block_tables[1:] = 0
    case.meta.slot_mapping[1:] = torch.tensor([-1, 0])
    out = result(case, device)
    torch.testing.assert_close(out[0].double(), expected, atol=2e-6, rtol=2e-6)
    assert (out[1] == 0).all()
    torch.testing.assert_close(out[2].view(2, 2, -1), case.v[2][:, None].expand(2, 2, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 70])
def test_ragged_rows(device: torch.device, dtype: torch.dtype, window: int) -> None:
    check(make_case([(3, 200), (130, 0), (1, 9), (70, 70)], window=window), device, dtype)


@pytest.mark.parametrize(("group", "kv_heads"), [(1, 2), (3, 1)])
def test_ragged_rows_of_other_shapes(device: torch.device, group: int, kv_heads: int) -> None:
    shape = {"group": group, "kv_heads": kv_heads, "head_dim": 24, "block": 8}
    check(make_case([(5, 0), (50, 100)], **shape), device)


def test_tokens_of_no_row_become_zero(device: torch.device) -> None:
    case = make_case([(3, 4), (0, 1), (2, 0), (0, 1)], spare_tokens=130)
    check(case, device)
    assert (result(case, device)[5:] == 0).all()


@pytest.mark.parametrize("window", [0, 4])
def test_padding_rows_may_have_more_tokens_than_context(device: torch.device, window: int) -> None:
    case = make_case([(3, 40), (200, 0)], window=window)
    expected = case.expected()[:3]
    case.meta.ctx_lens[1] = 1
    case.meta.block_tables[1] = 0
    case.meta.slot_mapping[3:] = 0
    out = result(case, device)
    torch.testing.assert_close(out[:3].double(), expected, atol=2e-6, rtol=2e-6)
    assert out.isfinite().all()


def test_chunks_of_a_prompt_give_the_same_bits_as_the_whole(device: torch.device) -> None:
    whole = moved(make_case([(150, 0)]), device, torch.float32)
    append(whole.k, whole.v, whole.kv, whole.meta.slot_mapping)

    def run(start: int, end: int) -> Tensor:
        out = torch.full_like(whole.q[start:end], torch.nan)
        cu_q = torch.tensor([0, end - start], dtype=torch.int32, device=device)
        ctx = torch.tensor([end], dtype=torch.int32, device=device)
        tables = whole.meta.block_tables
        attend_ragged(whole.q[start:end], whole.kv, cu_q, ctx, tables, whole.scale, 0, out)
        return out

    assert_same_bits(torch.cat([run(0, 70), run(70, 71), run(71, 150)]), run(0, 150))


@settings(max_examples=8)
@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 90)), min_size=1, max_size=4),
    block=st.sampled_from([8, 16]),
    group=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([0, 1, 33]),
    spare=st.integers(1, 5),
)
def test_random_batches(
    device: torch.device,
    rows: list[tuple[int, int]],
    block: int,
    group: int,
    window: int,
    spare: int,
) -> None:
    rows = [(new, max(before, 1 - new)) for new, before in rows]
    tokens = sum(new for new, _ in rows) + spare
    if tokens == len(rows):
        spare += 1
    check(make_case(rows, block=block, group=group, window=window, spare_tokens=spare), device)
