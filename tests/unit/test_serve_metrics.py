"""Metrics: what Prometheus' own parser makes of what is rendered."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from runtime.metrics import BUCKETS_S, COUNTERS, MAX_SERIES, OTHER, Metrics, open_descriptors, resident_bytes


def read(metrics: Metrics) -> dict[str, Metric]:
    """Every family, by the name that its TYPE line has."""
    text = metrics.render().decode()
    families = list(text_string_to_metric_families(text))
    # The parser is lenient; the format is not: one HELP and one TYPE for each, and a line end at the end.
    assert text.endswith("\n")
    assert "\n\n" not in text
    for family in families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
    heads = [line.split()[1:3] for line in text.splitlines() if line.startswith("#")]
    assert sorted(word for word, _ in heads) == ["HELP"] * len(families) + ["TYPE"] * len(families)
    assert len({tuple(head) for head in heads}) == 2 * len(families)
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(samples)) == len(samples)
    # The parser takes _total off a counter's name, which has it in this format.
    return {family.name + "_total" * (family.type == "counter"): family for family in families}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """That of one sample."""
    (found,) = [
        sample.value
        for family in read(metrics).values()
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    ]
    return float(found)


def test_counters_count() -> None:
    metrics = Metrics()
    metrics.count("sandbox_denied_calls_total", call="socket")
    metrics.count("sandbox_denied_calls_total", 41, call="socket")
    metrics.count("sandbox_denied_calls_total", call="kill")
    assert value(metrics, "sandbox_denied_calls_total", call="socket") == 42
    assert value(metrics, "sandbox_denied_calls_total", call="kill") == 1


def test_labels_in_any_order_are_the_same_labels() -> None:
    metrics = Metrics()
    metrics.count("sandbox_requests_total", path="/health", status="200")
    metrics.count("sandbox_requests_total", status="200", path="/health")
    assert value(metrics, "sandbox_requests_total", path="/health", status="200") == 2


def test_what_is_known_beforehand_is_counted_from_zero() -> None:
    """Else the first time-out would be no change that an alert could see."""
    metrics = Metrics()
    for result in ("ok", "error", "timeout", "limit", "cancelled", "refused"):
        assert value(metrics, "sandbox_runs_total", result=result) == 0
    for limit in ("cpu", "memory", "scratch", "output"):
        assert value(metrics, "sandbox_limits_hit_total", limit=limit) == 0


@pytest.mark.parametrize(
    "text", ['"', "\\", "\n", '\\"', "\\n", 'a"} 1\nb{c="', "é王", "", " ", "{}", "\ud800"]
)
def test_a_label_is_what_it_was(text: str) -> None:
    metrics = Metrics()
    metrics.count("sandbox_denied_calls_total", call=text)
    (sample,) = read(metrics)["sandbox_denied_calls_total"].samples
    assert sample.labels == {"call": text.replace("\ud800", "?")}
    assert sample.value == 1


def test_labels_have_an_end() -> None:
    """What is beyond is counted together: no sum is wrong, and what was there first stays apart."""
    metrics = Metrics()
    for at in range(MAX_SERIES + 5):
        metrics.count("sandbox_denied_calls_total", call=f"call-{at}")
        metrics.observe("sandbox_run_seconds", 1, phase=f"phase-{at}")
    metrics.count("sandbox_denied_calls_total", call="call-0")
    assert len(read(metrics)["sandbox_denied_calls_total"].samples) == MAX_SERIES + 1
    assert value(metrics, "sandbox_denied_calls_total", call="call-0") == 2
    assert value(metrics, "sandbox_denied_calls_total", call=OTHER) == 5
    assert value(metrics, "sandbox_run_seconds_count", phase=OTHER) == 5


def test_a_histogram() -> None:
    """Each bucket has all that are below it; a time on a bound is in its bucket."""
    metrics = Metrics()
    times = [0.0, 0.001, 0.0011, 0.3, 30.0, 31.0, 1000.0]
    for one in times:
        metrics.observe("sandbox_run_seconds", one, phase="run")
    metrics.observe("sandbox_run_seconds", 5.0, phase="wait")
    samples = [one for one in read(metrics)["sandbox_run_seconds"].samples if one.labels["phase"] == "run"]
    buckets = {
        float(one.labels["le"]): one.value for one in samples if one.name == "sandbox_run_seconds_bucket"
    }
    assert list(buckets) == [*BUCKETS_S, math.inf]
    assert buckets == {most: sum(one <= most for one in times) for most in buckets}
    assert value(metrics, "sandbox_run_seconds_count", phase="run") == 7
    assert value(metrics, "sandbox_run_seconds_sum", phase="run") == sum(times)
    assert value(metrics, "sandbox_run_seconds_count", phase="wait") == 1


def test_a_gauge_is_asked_when_somebody_looks() -> None:
    metrics = Metrics()
    values = iter([1, 1234567890, 0.1, math.inf])
    metrics.gauge("sandbox_spares", "Processes that wait for a run.", lambda: next(values))
    assert value(metrics, "sandbox_spares") == 1
    assert value(metrics, "sandbox_spares") == 1234567890
    assert value(metrics, "sandbox_spares") == 0.1
    assert value(metrics, "sandbox_spares") == math.inf


def test_a_gauge_that_is_named_again_takes_the_place_of_the_first() -> None:
    metrics = Metrics()
    metrics.gauge("sandbox_zygote_starts_total", "Starts.", lambda: 1, "counter")
    metrics.gauge("sandbox_zygote_starts_total", "Starts.", lambda: 2, "counter")
    assert value(metrics, "sandbox_zygote_starts_total") == 2


def test_every_counter_is_described_before_it_counts() -> None:
    assert set(COUNTERS) <= set(read(Metrics()))


# The process


def test_the_memory_of_this_process() -> None:
    """In bytes, and not rounded: 32 MiB that are written to are 32 MiB more."""
    before = value(Metrics(), "process_resident_memory_bytes")
    held = mmap.mmap(-1, 32 << 20)  # new pages, whatever the process has freed before
    held.write(b"x" * len(held))
    after = value(Metrics(), "process_resident_memory_bytes")
    assert abs(after - before - len(held)) < 2 << 20
    fields = {
        line.partition(":")[0]: line.partition(":")[2].split()
        for line in Path("/proc/self/status").read_text().splitlines()
    }
    assert abs(resident_bytes() - int(fields["VmRSS"][0]) * 1024) < 2 << 20


def test_the_memory_of_another_process() -> None:
    """And 0 of one that has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        assert 0 < resident_bytes(process.pid) < 32 << 20
        process.kill()
    assert resident_bytes(process.pid) == 0


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_the_open_descriptors_of_this_process() -> None:
    before = open_descriptors()
    assert before == sum(map(is_open, range(1 << 14)))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    assert value(Metrics(), "process_open_fds") == before + 5
    for descriptor in opened:
        os.close(descriptor)
    assert open_descriptors() == before


def test_the_time_of_this_process() -> None:
    began = time.time()
    metrics = Metrics()
    assert began <= value(metrics, "process_start_time_seconds") <= time.time()
    spent = time.process_time()
    while time.process_time() < spent + 0.1:
        pass
    assert value(metrics, "process_cpu_seconds_total") >= spent + 0.05
