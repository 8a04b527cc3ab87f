"""What the service counts, as Prometheus reads it: text exposition format 0.0.4."""

import posix

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
PAGE_BYTES = 4096

COUNTERS = {
    "sandbox_runs_total": "Runs that have ended, by result.",
    "sandbox_denied_calls_total": "System calls that the policy denied, by name.",
    "sandbox_limits_hit_total": "Runs that were ended by a limit, by limit.",
    "sandbox_requests_total": "HTTP requests, by route and status.",
    "sandbox_log_lines_lost_total": "Log lines that nobody read in time.",
}
SECONDS = {"sandbox_run_seconds": "Time of a run: waiting for its turn, running, and both."}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms by name and labels, and gauges that are asked when somebody looks."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Labels, int]] = {name: {} for name in COUNTERS}
        self._seconds: dict[str, dict[Labels, Histogram]] = {name: {} for name in SECONDS}
        self._gauges: list[tuple[str, str, str, Callable[[], float]]] = []

    def count(self, name: str, number: int = 1, **labels: str) -> None:
        """Adds `number` to one of COUNTERS."""
        counts = self._counts[name]
        key = tuple(labels.items())
        counts[key] = counts.get(key, 0) + number

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a time to one of SECONDS."""
        key = tuple(labels.items())
        histogram = self._seconds[name].get(key)
        if histogram is None:
            histogram = self._seconds[name][key] = Histogram()
        histogram.add(seconds)

    def gauge(self, name: str, what: str, ask: "Callable[[], float]", kind: str = "gauge") -> None:
        """Has `ask` called for the value of `name` whenever somebody looks."""
        self._gauges.append((name, what, kind, ask))

    def render(self) -> bytes:
        """Everything, as text."""
        lines = []
        for name, counts in self._counts.items():
            lines += [f"# HELP {name} {COUNTERS[name]}", f"# TYPE {name} counter"]
            lines += [f"{name}{_shown(labels)} {value}" for labels, value in counts.items()]
        for name, histograms in self._seconds.items():
            lines += [f"# HELP {name} {SECONDS[name]}", f"# TYPE {name} histogram"]
            for labels, histogram in histograms.items():
                lines += histogram.lines(name, labels)
        for name, what, kind, ask in self._gauges:
            lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", f"{name} {ask():g}"]
        return ("\n".join(lines) + "\n").encode()


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
        lines.append(f"{name}_sum{_shown(labels)} {self.total:.6f}")
        lines.append(f"{name}_count{_shown(labels)} {self.number}")
        return lines


def resident_bytes() -> float:
    """The resident memory of this process: the second field of /proc/self/statm, proc(5)."""
    try:
        source = posix.open("/proc/self/statm", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return float(int(posix.read(source, 256).split()[1]) * PAGE_BYTES)
    finally:
        posix.close(source)


def open_descriptors() -> float:
    """How many descriptors this process has open."""
    try:
        return float(len(posix.listdir("/proc/self/fd")))
    except OSError:
        return 0.0


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
