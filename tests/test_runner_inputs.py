"""The input tensors of a launch, against a plain loop over its tokens."""

import random

import pytest
import torch

from prelude.runner.inputs import LaunchInputs, build_inputs
from prelude.runner.slots import Slots
from prelude.types.plan import BlockGrant, BucketKey, Launch, LaunchKind, Row, SlotAdmit
from prelude.types.request import SamplingParams

SIZE = 4


def filled_slots(num_slots: int, width: int) -> Slots:
    slots = Slots(num_slots, width, 1000)
    blocks = list(range(1, num_slots * width + 1))
    random.Random(0).shuffle(blocks)
    for slot in range(num_slots):
        slots.admit(SlotAdmit(slot, slot, SamplingParams(), 0, (500 + slot,), 1, ()))
        own = blocks[slot * width : (slot + 1) * width]
        slots.grant(BlockGrant(slot, 0, tuple(own)))
    return slots


def launch_of(kind: LaunchKind, rows: list[Row]) -> Launch:
    key = BucketKey(kind, sum(row.num_tokens for row in rows), len(rows))
    return Launch(key, tuple(rows), 1.0)


def by_hand(launch: Launch, slots: Slots) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"ids": [], "positions": [], "mapping": [], "cu_q": [0]}
    for row in launch.rows:
        table = slots.block_tables[row.slot]
        found["ids"] += row.token_ids or [500 + row.slot]
        for i in range(row.start, row.start + row.num_tokens):
            found["positions"].append(i)
            found["mapping"].append(int(table[i // SIZE]) * SIZE + i % SIZE)
        found["cu_q"].append(len(found["ids"]))
    ends = found["cu_q"][1:]
    rows = list(zip(launch.rows, ends, strict=True))
    found["ctx_lens"] = [row.start + row.num_tokens for row in launch.rows]
    found["sample_at"] = [end - 1 for row, end in rows if row.samples]
    found["sample_slots"] = [row.slot for row in launch.rows if row.samples]
    return found


def told(inputs: LaunchInputs) -> dict[str, list[int]]:
    meta = inputs.meta
    tensors = {
        "ids": inputs.ids,
        "positions": inputs.positions,
        "mapping": meta.slot_mapping,
        "cu_q": meta.cu_q,
        "ctx_lens": meta.ctx_lens,
        "sample_at": inputs.sample_at,
        "sample_slots": inputs.sample_slots,
    }
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("seed", range(8))
def test_mixed_launches_are_flattened_in_order(seed: int) -> None:
    rng = random.Random(seed)
    slots = filled_slots(6, 10)
    rows = []
    for slot in rng.sample(range(6), rng.randint(1, 6)):
        count, start = rng.choice([1, 1, 3, 9]), rng.randrange(20)
        is_decode = count == 1 and rng.random() < 0.6
        tokens = () if is_decode else tuple(rng.randrange(500) for _ in range(count))
        rows.append(Row(slot, slot, start, count, tokens, is_decode or rng.random() < 0.5))
    launch = launch_of("prefill", rows)
    inputs = build_inputs(launch, slots, SIZE)
    assert told(inputs) == by_hand(launch, slots)
    assert inputs.sample_rows == tuple(i for i, row in enumerate(rows) if row.samples)
    width = inputs.meta.block_tables.shape[1]
    assert width == -(-max(inputs.meta.ctx_lens.tolist()) // SIZE)
    expected = [slots.block_tables[row.slot, :width].tolist() for row in rows]
    assert inputs.meta.block_tables.tolist() == expected


def test_a_decode_launch_is_the_same_by_its_shorter_way() -> None:
    slots = filled_slots(6, 10)
    rows = [Row(slot, slot, 7 * slot, 1) for slot in (3, 0, 5, 1)]
    rows.append(Row(2, 2, 8, 1, (77,), samples=False))  # one token of a prompt that goes on
    short, plain = (
        build_inputs(launch_of(kind, rows), slots, SIZE) for kind in ("decode", "prefill")
    )
    assert told(short) == told(plain) == by_hand(launch_of("decode", rows), slots)
    assert [t.dtype for t in short.meta] == [t.dtype for t in plain.meta]
    assert short.meta.block_tables.equal(plain.meta.block_tables)


def test_tensors_have_the_types_that_kernels_expect() -> None:
    inputs = build_inputs(launch_of("decode", [Row(0, 0, 3, 1)]), filled_slots(2, 4), SIZE)
    int32, int64 = torch.int32, torch.int64
    assert [t.dtype for t in inputs.meta] == [int32, int32, int32, int64]
    assert {inputs.ids.dtype, inputs.positions.dtype, inputs.sample_at.dtype} == {int64}
