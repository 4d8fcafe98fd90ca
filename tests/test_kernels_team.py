"""The threads of the CPU kernels: whoever uses them together, often, or after a while gets the
same results."""

import ctypes
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from prelude.kernels import linear as linear_module
from prelude.kernels.build import compile_library, load_library
from prelude.kernels.linear import linear, select_linear

SOURCE = """
#include <atomic>
#include <stdexcept>
#include "team.h"
// How many come, if all wait for `threads` of them or for a moment.
extern "C" int members(int threads, int moment_ms) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(moment_ms);
    std::atomic<int> found{0};
    prelude_team::team().run(threads, [&] {
        for (found++; found < threads && std::chrono::steady_clock::now() < until;)
            std::this_thread::yield();
    });
    return found;
}
extern "C" bool fails() {
    const auto caller = std::this_thread::get_id();
    try {
        prelude_team::team().run(3, [&] {
            if (std::this_thread::get_id() == caller) throw std::runtime_error("no");
        });
    } catch (const std::runtime_error&) {
        return true;
    }
    return false;
}
extern "C" const void* whose() { return &prelude_team::team(); }
"""


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
    """Those whose product is not what one thread makes of it. In ``pauses`` one thread works alone
    while helpers spin, doze off or sleep."""
    found = []
    for seed in seeds:
        x, w = problem(seed)
        torch.set_num_threads(1)
        alone = linear(x, w)
        for _ in range(pauses.choice((0, 1, 10)) if pauses else 0):
            linear(x, w)
        torch.set_num_threads(threads)
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


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("team")
    header = Path(linear_module.__file__).parent / "cpu" / "team.h"
    (folder / "team.h").write_text(header.read_text())
    found = []
    for name in ("one", "other"):
        (folder / f"{name}.cpp").write_text(SOURCE)
        found.append(load_library(compile_library(folder / f"{name}.cpp", folder / "built")))
        found[-1].whose.restype = ctypes.c_void_p
    return found


def test_all_come_who_are_asked_and_no_more(libraries: list[ctypes.CDLL]) -> None:
    one, other = libraries
    for threads in (1, 2, 4, 3, 1, 4):
        assert one.members(threads, 20_000) == threads
        assert other.members(threads, 20_000) == threads


def test_libraries_share_one_team(libraries: list[ctypes.CDLL]) -> None:
    one, other = libraries
    assert one.whose() == other.whose()


def test_who_fails_leaves_the_team_in_order(libraries: list[ctypes.CDLL]) -> None:
    for _ in range(20):
        assert libraries[0].fails()
        assert libraries[0].members(3, 20_000) == 3
