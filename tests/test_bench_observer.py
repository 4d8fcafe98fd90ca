"""The circumstances of a run: processes, cores, and who else was there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from prelude.bench import machine
from prelude.bench.observer import Observer
from prelude.bench.result import Probe, Quiet


def probe(is_quiet: bool) -> Probe:
    return Probe("cpu", 2, "float32", 30.0, 177.0, Quiet(0.1, 0.0, 1.0, is_quiet))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[machine.CpuTimes]]:
    """What the machine says of its cores, call by call; the last one stays."""
    queue: list[machine.CpuTimes] = []

    def cpu_times() -> machine.CpuTimes | None:
        return queue.pop(0) if len(queue) > 1 else queue[0]

    monkeypatch.setattr(machine, "cpu_times", cpu_times)
    yield queue


def idle(total_s: float, busy_s: float) -> machine.CpuTimes:
    return machine.CpuTimes(busy_s, total_s)


def test_an_environment_says_where_and_with_what() -> None:
    environment = Observer(None).finish()
    assert environment.command[-1] == sys.orig_argv[-1]
    assert datetime.fromisoformat(environment.started_utc).tzinfo is not None
    assert environment.wall_s >= 0.0
    assert environment.cores == machine.my_cores()
    assert environment.versions == machine.versions()
    assert environment.probe is None
    (me,) = environment.processes
    assert (me.role, me.pid) == ("benchmark", os.getpid())
    assert me.cpu_s < 5.0, "only what was used since the start"


def test_server_processes_are_followed() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        environment = Observer(None, [child.pid]).finish()
        child.communicate(b"\n")
    roles = {process.pid: process.role for process in environment.processes}
    assert roles == {os.getpid(): "benchmark", child.pid: "server"}


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="pids"):
        Observer(None, [2**22 + 1])


def test_a_server_that_ends_meanwhile_is_left_out() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        observer = Observer(None, [child.pid])
        child.communicate(b"\n")
    assert [process.pid for process in observer.finish().processes] == [os.getpid()]


def test_an_idle_machine_is_quiet(times: list[machine.CpuTimes]) -> None:
    times += [idle(100.0, 1.0)] * 3 + [idle(200.0, 2.0)]
    environment = Observer(probe(True)).finish()
    assert environment.others_cpu_share is not None
    assert environment.others_cpu_share <= 0.01
    assert environment.quiet


def test_others_at_work_are_noticed(times: list[machine.CpuTimes]) -> None:
    times += [idle(100.0, 1.0)] * 2 + [idle(200.0, 51.0)]
    environment = Observer(probe(True)).finish()
    assert environment.others_cpu_share == pytest.approx(0.5, abs=0.05)
    assert not environment.quiet


def test_a_probe_that_met_others_is_remembered(times: list[machine.CpuTimes]) -> None:
    times += [idle(100.0, 1.0)]
    assert not Observer(probe(False)).finish().quiet


def test_an_unknown_server_makes_others_unknown() -> None:
    environment = Observer(None, complete=False).finish()
    assert environment.others_cpu_share is None


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_times", lambda: None)
    environment = Observer(None).finish()
    assert environment.others_cpu_share is None
    assert environment.processes == []


def test_keys_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["prelude", "bench", "serve", "api_key=secret", "+api_key=secret", "model=a=b"]
    monkeypatch.setattr(sys, "orig_argv", argv)
    kept = Observer(None).finish().command
    assert kept == ["prelude", "bench", "serve", "api_key=...", "+api_key=...", "model=a=b"]
