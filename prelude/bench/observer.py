"""Records the circumstances of a measurement while it runs, and says whether they were quiet."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prelude.bench import machine
from prelude.bench.result import Environment, Probe, Process

QUIET_OTHERS_SHARE = 0.1


class Observer:
    """Start it right before the measured part, ``finish`` right after.

    ``pids`` are server processes on this machine; they, their descendants, this process and the
    children that it waited for are ours, and whatever else used the cores meanwhile was not.
    Raises ``ValueError`` for a process that does not exist.

    ``complete=False`` says that the server runs here but its processes are not known: then there
    is no telling what the others used.
    """

    def __init__(
        self, probe: Probe | None, pids: Sequence[int] = (), *, complete: bool = True
    ) -> None:
        self._probe = probe
        self._complete = complete
        self._pids = list(pids)
        self._load = machine.load_average()
        self._utc = datetime.now(UTC)
        for pid in self._pids:
            machine.process(pid, "server")
        self._before = {process.pid: process for process in self._processes()}
        self._times = machine.cpu_times()
        self._children_s = machine.children_cpu_s()
        self._start = time.perf_counter()

    def finish(self) -> Environment:
        wall_s = time.perf_counter() - self._start
        times = machine.cpu_times()
        processes = [self._since_start(process) for process in self._processes()]
        others = None
        if times is not None and self._times is not None and self._complete:
            ours_s = sum(process.cpu_s for process in processes)
            ours_s += machine.children_cpu_s() - self._children_s
            total_s = max(times.total_s - self._times.total_s, 1e-9)
            others = max((times.busy_s - self._times.busy_s - ours_s) / total_s, 0.0)
        quiet_before = self._probe is None or self._probe.quiet.quiet
        return Environment(
            command=[
                Path(sys.orig_argv[0]).name,  # which interpreter it was, not where it lies
                *map(_without_secret, sys.orig_argv[1:]),
            ],
            started_utc=self._utc.isoformat(timespec="seconds"),
            wall_s=wall_s,
            host_cpu=machine.host_cpu(),
            cores=machine.my_cores(),
            memory_gib=round(machine.memory_gib(), 1),
            accelerators=machine.accelerators(),
            versions=machine.versions(),
            variables=machine.thread_variables(),
            load_before=self._load,
            load_after=machine.load_average(),
            others_cpu_share=others,
            quiet=quiet_before and (others is None or others <= QUIET_OTHERS_SHARE),
            processes=processes,
            probe=self._probe,
        )

    def _processes(self) -> list[Process]:
        if machine.cpu_times() is None:
            return []
        found = [machine.process(os.getpid(), "benchmark")]
        for pid in machine.family(self._pids):
            if pid != os.getpid():
                with contextlib.suppress(ValueError):  # a server may end during the run
                    found.append(machine.process(pid, "server"))
        return found

    def _since_start(self, now: Process) -> Process:
        before = self._before.get(now.pid)
        used_s = now.cpu_s - (before.cpu_s if before is not None else 0.0)
        return Process(now.role, now.pid, now.cores, used_s, now.peak_rss_mib)


def _without_secret(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    return f"{name}=..." if equals and name.lstrip("+") == "api_key" else argument
