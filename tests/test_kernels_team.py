"""The threads of the CPU kernels: whoever uses them together, often, or after a while gets the
same results."""

import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from prelude.kernels.linear import linear, select_linear


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    before = torch.get_num_threads()
    assert select_linear("cpu") == "cpu"
    yield
    torch.set_num_threads(before)
    select_linear("torch")


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = 1 + seed % 7
    return torch.randn(rows, 256, generator=generator), torch.randn(3000, 256, generator=generator)


def wrong(seeds: range, threads: int, pauses: random.Random | None = None) -> list[int]:
    """Those whose product is not what one thread makes of it."""
    found = []
    for seed in seeds:
        x, w = problem(seed)
        torch.set_num_threads(1)
        alone = linear(x, w)
        torch.set_num_threads(threads)
        if pauses is not None:
            time.sleep(pauses.choice((0.0, 0.0005, 0.003)))  # helpers spin, doze off, sleep
        if not all(torch.equal(linear(x, w), alone) for _ in range(5)):
            found.append(seed)
        torch.testing.assert_close(alone, F.linear(x, w), rtol=1e-4, atol=1e-3)
    return found


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_work_is_done_whether_helpers_are_awake_or_asleep(threads: int) -> None:
    assert wrong(range(40), threads, random.Random(0)) == []


def test_several_callers_at_once() -> None:
    found: list[int] = []
    callers = [
        threading.Thread(target=lambda i=i: found.extend(wrong(range(i, i + 30), 2)))
        for i in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert found == []
