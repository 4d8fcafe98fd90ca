"""What is read from /proc: on this machine, and from files written for the test."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench import machine


def test_cpu_times_add_up(tmp_path: Path) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    ticks = [10, 20, 30, 400, 50, 1, 2, 3, 77, 88]  # the last two are inside user and nice
    (tmp_path / "stat").write_text("cpu  " + " ".join(map(str, ticks)) + "\ncpu0 1 2\n")
    times = machine.cpu_times(tmp_path)
    assert times is not None
    assert times.total_s == pytest.approx(516 / hertz)
    assert times.busy_s == pytest.approx(66 / hertz)


def test_no_proc_gives_nothing(tmp_path: Path) -> None:
    assert machine.cpu_times(tmp_path) is None
    assert machine.accelerators(tmp_path) == []
    assert machine.listeners(1, tmp_path) == []
    assert machine.host_cpu(tmp_path)


def test_this_process() -> None:
    me = machine.process(os.getpid(), "benchmark")
    assert (me.role, me.pid) == ("benchmark", os.getpid())
    assert me.cores == machine.my_cores()
    assert me.cpu_s > 0
    assert me.peak_rss_mib > 1


def test_a_process_with_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    fields = ["S", *["0"] * 10, "150", "50", "0"]
    (folder / "stat").write_text("7 (a) b (c) " + " ".join(fields))
    (folder / "status").write_text("Name:\ta\nCpus_allowed_list:\t0-1,4\nVmHWM:\t 2048 kB\n")
    process = machine.process(7, "server", tmp_path)
    assert process.cores == [0, 1, 4]
    assert process.cpu_s == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert process.peak_rss_mib == 2.0


def test_no_such_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no process 7"):
        machine.process(7, "server", tmp_path)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_core_lists(cores: set[int]) -> None:
    parts: list[str] = []
    for core in sorted(cores):
        first, _, last = parts[-1].partition("-") if parts else ("", "", "")
        if parts and int(last or first) == core - 1:
            parts[-1] = f"{first}-{core}"
        else:
            parts.append(str(core))
    assert machine.parse_cores(",".join(parts) + "\n") == sorted(cores)


def test_a_family_has_its_descendants(tmp_path: Path) -> None:
    children = {1: "2 3 ", 2: "4 ", 3: "", 4: "2 "}
    for pid, text in children.items():
        folder = tmp_path / str(pid) / "task" / str(pid)
        folder.mkdir(parents=True)
        (folder / "children").write_text(text)
    assert machine.family([1], tmp_path) == [1, 2, 3, 4]
    assert machine.family([], tmp_path) == []


def test_a_child_is_family() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.pid in machine.family([os.getpid()])
        child.communicate("\n")


def test_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.listeners(port) == [os.getpid()]
    assert machine.listeners(port) == []


def test_who_listens_on_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert machine.listeners(server.getsockname()[1]) == [os.getpid()]


def test_accelerators_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 5\nnonsense\n")
    assert machine.accelerators(tmp_path) == ["NVIDIA H200"]


def test_host_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast One\n")
    assert machine.host_cpu(tmp_path) == "Fast One"


def test_versions_are_those_installed() -> None:
    import msgspec

    assert msgspec.__version__
    found = machine.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "httptools", "torch"} <= found.keys()


def test_variables_of_compute_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("API_KEY", "secret")
    found = machine.thread_variables()
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "API_KEY" not in found


def test_memory_and_load() -> None:
    assert machine.memory_gib() > 0.1
    assert len(machine.load_average()) == 3


def test_quietness_restores_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    quiet = machine.quietness(busy_window_s=0.02, spin_s=0.002)
    assert os.sched_getaffinity(0) == before
    assert 0.0 <= quiet.busy_share <= 1.0
    assert 0.0 < quiet.spin_share <= 1.0
    assert quiet.quiet == (
        quiet.busy_share <= machine.QUIET_BUSY_SHARE
        and quiet.spin_share >= machine.QUIET_SPIN_SHARE
    )


def test_machine_does_not_load_torch() -> None:
    code = "import sys, prelude.bench.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
