"""The graph double refuses what a CUDA graph could not follow."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from prelude.graphs.graph_pool import GraphPool
from tests.device_double import DeviceDouble, GraphDouble


def test_a_replay_sees_new_inputs() -> None:
    x, out = torch.zeros(4), torch.zeros(4)
    graph = GraphDouble(lambda: out.copy_(x + 1))
    x.fill_(2.0)
    graph.replay()
    assert out.tolist() == [3.0] * 4


def changed_scalar() -> Callable[[], None]:
    step, out = [0], torch.zeros(2)

    def work() -> None:
        step[0] += 1
        out.add_(step[0])

    return work


def rebound_buffer() -> Callable[[], None]:
    box, keep = [torch.zeros(2)], []

    def work() -> None:
        box[0].add_(1)
        keep.append(box[0])
        box[0] = torch.zeros(2)

    return work


@pytest.mark.parametrize("make", [changed_scalar, rebound_buffer])
def test_what_a_graph_would_replay_as_it_was(make: Callable[[], Callable[[], None]]) -> None:
    graph = GraphDouble(make())
    with pytest.raises(RuntimeError, match="captured"):
        graph.replay()


def test_waiting_for_the_device_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        GraphDouble(lambda: x[int(x.sum().item()) - 3 :].zero_())


def test_the_queue_runs_in_order_and_only_when_waited_for() -> None:
    queue, x = DeviceDouble(), torch.zeros(2, dtype=torch.int32)
    values = np.array([1, 2], dtype=np.int32)
    queue.upload(x, values)
    values[:] = 9  # the copy was taken
    read = queue.fetch(lambda: (x,))
    queue.run(lambda: x.zero_())
    mark = queue.mark()
    assert x.tolist() == [0, 0]
    mark.wait()
    assert read()[0].tolist() == [1, 2]


def test_programs_are_captured_largest_first_and_bounded_in_time() -> None:
    queue, order = DeviceDouble(), list[int]()
    pool = GraphPool(queue)
    for size in (4, 64, 16):
        pool.declare(size, lambda: None, lambda size=size: order.append(size), size)  # type: ignore[misc]
    assert pool.capture_some(seconds=0) == [64]
    assert (pool.count.ready, pool.count.total) == (1, 3)
    assert pool.capture_some() == [16, 4]
    assert order == [64, 16, 4]
    assert pool.capture_some() == []
