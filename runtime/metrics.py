"""What the service counts, as Prometheus reads it: text exposition format 0.0.4."""

import posix
from time import time

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.api import Api
    from runtime.log import Log
    from runtime.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
MAX_SERIES = 1000
"""Of one name. Labels beyond are counted together, as OTHER: nobody shall fill the memory with names."""
OTHER = "other"

COUNTERS = {
    "sandbox_runs_total": "Runs that have ended, by result.",
    "sandbox_denied_calls_total": "System calls that the policy denied, by name.",
    "sandbox_limits_hit_total": "Runs that have hit a limit, by limit.",
    "sandbox_requests_total": "HTTP requests, by route and status.",
}
SECONDS = {"sandbox_run_seconds": "Time of a run: waiting for its turn, running, and both."}
KNOWN = {
    "sandbox_runs_total": ("result", ("ok", "error", "timeout", "limit", "cancelled", "refused")),
    "sandbox_limits_hit_total": ("limit", ("cpu", "memory", "scratch", "output")),
}
"""Counted from 0 on: the first of them is a change, too, and an alert on a change sees it."""

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms by name and labels, and gauges that are asked when somebody looks."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Labels, int]] = {name: {} for name in COUNTERS}
        self._seconds: dict[str, dict[Labels, Histogram]] = {name: {} for name in SECONDS}
        self._gauges: dict[str, tuple[str, str, Callable[[], float]]] = {}
        for name, (label, values) in KNOWN.items():
            self._counts[name].update({((label, value),): 0 for value in values})
        began_s = time()
        self.gauge("process_start_time_seconds", "When the server was started.", lambda: began_s)
        self.gauge("process_resident_memory_bytes", "Resident memory of the server.", resident_bytes)
        self.gauge("process_open_fds", "Open descriptors of the server.", open_descriptors)
        self.total("process_cpu_seconds_total", "CPU time of the server.", cpu_seconds)

    def watch(self, api: "Api", pool: "Pool", log: "Log") -> None:
        """Has them asked for what they know of themselves."""
        counts, keeper = pool.counts, pool.keeper
        gauge, total = self.gauge, self.total
        gauge(
            "sandbox_up",
            "1 while runs succeed, as /health has it.",
            lambda: int(not (api.draining or pool.reason)),
        )
        gauge("sandbox_requests_in_flight", "Requests to run something.", lambda: api.in_flight)
        gauge("sandbox_workers", "Runs that may be under way.", lambda: pool.settings.max_workers)
        gauge("sandbox_workers_busy", "Runs that are under way.", lambda: pool.busy)
        gauge(
            "sandbox_runs_waiting", "Runs that wait for a worker.", lambda: pool.facts()["workers"]["waiting"]
        )
        gauge("sandbox_spares", "Processes that wait for a run.", lambda: pool.facts()["spares"]["ready"])
        gauge("sandbox_uids_taken", "User ids that are not free.", lambda: pool.facts()["uids"]["taken"])
        gauge(
            "sandbox_zygote_resident_memory_bytes",
            "Resident memory of the zygote.",
            lambda: resident_bytes(keeper.pid),
        )
        total("sandbox_zygote_starts_total", "Starts of the zygote.", lambda: keeper.starts)
        total("sandbox_spares_made_total", "Processes made for runs.", lambda: counts["spares_made"])
        total("sandbox_spares_lost_total", "Those that ended unused.", lambda: counts["spares_lost"])
        total("sandbox_log_lines_lost_total", "Log lines that nobody read.", lambda: log.lost_lines)

    def count(self, name: str, number: int = 1, **labels: str) -> None:
        """Adds `number` to one of COUNTERS."""
        counts = self._counts[name]
        key = _bounded(counts, labels)
        counts[key] = counts.get(key, 0) + number

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a time to one of SECONDS."""
        histograms = self._seconds[name]
        key = _bounded(histograms, labels)
        if key not in histograms:
            histograms[key] = Histogram()
        histograms[key].add(seconds)

    def gauge(self, name: str, what: str, ask: "Callable[[], float]", kind: str = "gauge") -> None:
        """Has `ask` called for the value of `name` whenever somebody looks."""
        self._gauges[name] = what, kind, ask

    def total(self, name: str, what: str, ask: "Callable[[], float]") -> None:
        """The same of what never sinks."""
        self.gauge(name, what, ask, "counter")

    def render(self) -> bytes:
        """Everything, as text."""
        lines = []
        for name, counts in self._counts.items():
            lines += _head(name, COUNTERS[name], "counter")
            lines += [f"{name}{_shown(labels)} {value}" for labels, value in counts.items()]
        for name, histograms in self._seconds.items():
            lines += _head(name, SECONDS[name], "histogram")
            for labels, histogram in histograms.items():
                lines += histogram.lines(name, labels)
        for name, (what, kind, ask) in self._gauges.items():
            lines += [*_head(name, what, kind), f"{name} {ask()!r}"]
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")


class Histogram:
    """Times by the bucket that they fall into."""

    def __init__(self) -> None:
        self.buckets = [0] * len(BUCKETS_S)
        self.total = 0.0
        self.number = 0

    def add(self, seconds: float) -> None:
        """One more time."""
        self.total += seconds
        self.number += 1
        for at, most in enumerate(BUCKETS_S):
            if seconds <= most:
                self.buckets[at] += 1
                return

    def lines(self, name: str, labels: Labels) -> list[str]:
        """Its buckets, each with all that are below it, its sum and its count."""
        lines, below = [], 0
        for most, number in zip(BUCKETS_S, self.buckets, strict=True):
            below += number
            lines.append(f"{name}_bucket{_shown((*labels, ('le', f'{most:g}')))} {below}")
        lines.append(f"{name}_bucket{_shown((*labels, ('le', '+Inf')))} {self.number}")
        lines.append(f"{name}_sum{_shown(labels)} {self.total!r}")
        lines.append(f"{name}_count{_shown(labels)} {self.number}")
        return lines


def resident_bytes(process: "int | str" = "self") -> int:
    """Resident memory of this process, or of the one with that id; 0 where it has ended: proc(5), statm."""
    try:
        source = posix.open(f"/proc/{process}/statm", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(posix.read(source, 256).split()[1]) * posix.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # ended meanwhile
        return 0
    finally:
        posix.close(source)


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    try:
        return len(posix.listdir("/proc/self/fd")) - 1  # the listing's own
    except OSError:
        return 0


def cpu_seconds() -> float:
    """The CPU time of this process, without that of its children."""
    times = posix.times()
    return times.user + times.system


def _bounded(known: "dict[Labels, Any]", labels: dict[str, str]) -> Labels:
    key = tuple(sorted(labels.items()))
    if key in known or len(known) < MAX_SERIES:
        return key
    return tuple((label, OTHER) for label, _ in key)


def _head(name: str, what: str, kind: str) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
