"""What the operating system says of this machine: processors, load, who uses the cores. Reads
``/proc``; where there is none, the values are empty or null rather than guessed."""

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from prelude.bench.result import Process, Quiet

PROC = Path("/proc")
PACKAGES = ("prelude-llm", "torch", "transformers", "numpy", "uvloop", "httptools")
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "TORCH_", "LD_PRELOAD")
TCP_LISTEN = "0A"
QUIET_BUSY_SHARE = 0.05
QUIET_SPIN_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since boot over all cores."""

    busy_s: float
    total_s: float


def cpu_times(proc: Path = PROC) -> CpuTimes | None:
    """Core seconds that were used, and that there were, on the whole machine."""
    try:
        fields = (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(field) for field in fields]  # user nice system idle iowait irq softirq steal
    idle = ticks[3] + ticks[4]
    hertz = os.sysconf("SC_CLK_TCK")
    return CpuTimes((sum(ticks) - idle) / hertz, sum(ticks) / hertz)


def process(pid: int, role: str, proc: Path = PROC) -> Process:
    """What one process used so far. Raises ``ValueError`` when there is no such process."""
    try:
        stat = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        raise ValueError(f"pids: there is no process {pid}") from None
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return Process(
        role=role,
        pid=pid,
        cores=parse_cores(fields["Cpus_allowed_list"]),
        cpu_s=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
        peak_rss_mib=int(fields["VmHWM"].split()[0]) / 1024 if "VmHWM" in fields else 0.0,
    )


def children_cpu_s() -> float:
    """Seconds used by the ended children of this process, and by theirs."""
    times = os.times()
    return times.children_user + times.children_system


def family(pids: Iterable[int], proc: Path = PROC) -> list[int]:
    """These processes and all their descendants, parents first."""
    found: list[int] = []
    queue = list(pids)
    while queue:
        pid = queue.pop(0)
        if pid in found:
            continue
        found.append(pid)
        for task in (proc / str(pid) / "task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                queue += [int(child) for child in task.read_text().split()]
    return found


def listeners(port: int, proc: Path = PROC) -> list[int]:
    """Processes that listen on a TCP port of this machine, as far as this user may know."""
    sockets = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in (proc / table).read_text().splitlines()[1:]]
            sockets |= {
                f"socket:[{row[9]}]"
                for row in rows
                if row[3] == TCP_LISTEN and int(row[1].rpartition(":")[2], 16) == port
            }
    found = []
    for folder in proc.glob("[0-9]*/fd") if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(link) in sockets for link in folder.iterdir()):
                found.append(int(folder.parent.name))
    return sorted(found)


def parse_cores(ranges: str) -> list[int]:
    """``0-2,5`` as the kernel writes it."""
    cores: list[int] = []
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores


def my_cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0))


def load_average() -> tuple[float, float, float]:
    try:
        return os.getloadavg()
    except OSError:
        return (0.0, 0.0, 0.0)


def host_cpu(proc: Path = PROC) -> str:
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib(proc: Path = PROC) -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def accelerators(proc: Path = PROC) -> list[str]:
    """Names of NVIDIA devices, from the driver and without loading CUDA."""
    found = []
    for path in sorted((proc / "driver/nvidia/gpus").glob("*/information")):
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        found.append(lines.get("Model", path.parent.name).strip())
    return found


def versions() -> dict[str, str]:
    """Installed versions of what matters to a measurement, without importing any of it."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def thread_variables() -> dict[str, str]:
    """What the environment says to OpenMP, MKL and torch: a waiting policy alone can change a
    measurement several times over when cores are shared."""
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}


def quietness(busy_window_s: float = 0.3, spin_s: float = 0.02) -> Quiet:
    """Sleep and see who else runs, then spin on every core and see how much of it we get.

    Call it while nothing of the measurement runs. Restores this thread's affinity.
    """
    before = cpu_times()
    time.sleep(busy_window_s)
    after = cpu_times()
    busy_share = 0.0
    if before is not None and after is not None and after.total_s > before.total_s:
        busy_share = (after.busy_s - before.busy_s) / (after.total_s - before.total_s)
        busy_share = min(max(busy_share, 0.0), 1.0)  # differences of large floats
    spin_share = min(_spin_all(spin_s))
    return Quiet(
        load_1min=load_average()[0],
        busy_share=busy_share,
        spin_share=spin_share,
        quiet=busy_share <= QUIET_BUSY_SHARE and spin_share >= QUIET_SPIN_SHARE,
    )


def _spin_all(spin_s: float) -> list[float]:
    cores = os.sched_getaffinity(0)
    try:
        return [_spin(core, spin_s) for core in sorted(cores)]
    finally:
        os.sched_setaffinity(0, cores)


def _spin(core: int, spin_s: float) -> float:
    os.sched_setaffinity(0, {core})
    wall, cpu = time.perf_counter(), time.thread_time()
    while (elapsed := time.perf_counter() - wall) < spin_s:
        pass
    return min((time.thread_time() - cpu) / elapsed, 1.0)
