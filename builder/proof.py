"""Proof that a finished image keeps its promises: every declared import and snippet, tried in its own jail.

Each is tried in a process of its own, under the image's entrypoint, policy, limits and user. What attempt.py
says of packages that pretend holds here, too.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder import jailrun, verify
from builder.arch import Arch, host_arch
from builder.attempt import Attempt, Jailed, Runner, try_import, try_snippet
from builder.emulation import NOT_PROVEN, emulated
from builder.entrance import ENTERING
from builder.errors import BuildError, SandboxError, VerificationFailed
from builder.image_settings import read_settings
from builder.progress import Progress
from builder.remedy import Context, Failure, died, explain_import, explain_snippet, render, snippet_holds
from builder.tree.distributions import normalized

_MOST_FAILURES = 25
"""So many are told in full."""

_SLOWEST = 5

_MOST_IMPORTS = 10_000
_LONGEST_NAME = 1_000


@dataclass(frozen=True)
class Imported:
    """A module that was imported."""

    name: str
    distribution: str | None
    """None for one that verify.imports or warm asks for."""
    seconds: float
    """What the import itself took."""
    denied: int
    """System calls that the policy denied meanwhile; the import went on without."""


@dataclass(frozen=True)
class Proof:
    """What was proven of an image, and what was not."""

    arch: str
    how: str
    """jail: everything ran as it will; emulated: through qemu, see `not_proven`; nothing: nothing was run."""
    level: str | None
    """chroot or landlock, which was in force; None where nothing ran in the jail."""
    python: str | None
    """The version of the interpreter that ran."""
    imports: tuple[Imported, ...]
    snippets: int
    skipped: tuple[str, ...]
    """Names that verify.skip leaves out."""
    nameless: tuple[str, ...]
    """Distributions of which no module is known, so that none was imported."""
    not_proven: tuple[str, ...]
    """What this machine could not show."""
    seconds: float

    def lines(self) -> list[str]:
        """The proof for a person."""
        counts = {"import": len(self.imports), "snippet": self.snippets}
        held = " and ".join(_count(number, what) for what, number in counts.items() if number)
        held = f"{held or 'Python'} {'work' if sum(counts.values()) > 1 else 'works'}"
        where = f"with Python {self.python} ({self.seconds:.1f} s)"
        headlines = {
            "jail": f"{held} in the jail of {self.arch}, level {self.level}, {where}",
            "emulated": f"{held} in the tree of {self.arch}, through qemu, {where}",
            "nothing": f"nothing of {self.arch} was run; that every file finds its libraries was checked",
        }
        lines = [headlines[self.how]]
        if slow := sorted(self.imports, key=lambda one: (-one.seconds, one.name))[:_SLOWEST]:
            lines.append("slowest: " + ", ".join(f"{one.name} {one.seconds:.2f} s" for one in slow))
        if denied := [f"{one.name} ({one.denied})" for one in self.imports if one.denied]:
            lines.append(f"went on without denied system calls: {', '.join(denied)}")
        for what, names in (
            ("not imported, as verify.skip says", self.skipped),
            ("not imported, since no module of it is known (verify.imports can name one)", self.nameless),
        ):
            if names:
                lines.append(f"{what}: {', '.join(names)}")
        return [*lines, *(f"not proven: {one}" for one in self.not_proven)]

    def as_data(self) -> dict[str, Any]:
        """The proof as JSON has it."""
        return asdict(self)


class ProofFailed(VerificationFailed):
    """Promises that do not hold: all of them at once."""

    def __init__(self, failures: Sequence[Failure], tried: int, where: str) -> None:
        if len(failures) == 1:
            (one,) = failures
            super().__init__(f"{one.what} fails {where}: {one.why}", one.hint)
        else:
            super().__init__(
                f"{len(failures)} of {tried} imports and snippets fail {where}:\n"
                f"{render(failures, _MOST_FAILURES)}",
                "mend each as it says there, and build again",
            )
        self.failures = tuple(failures)


@dataclass(frozen=True)
class _Job:
    """One promise."""

    name: str
    """The module, or what to call the snippet."""
    run: Callable[[int, int], Attempt]
    """Takes a uid, and the descriptor that cancels."""
    holds: Callable[[Attempt], bool]
    explain: Callable[[Attempt], Failure]
    distribution: str | None = None
    is_snippet: bool = False


def prove(
    root: Path,
    report: Mapping[str, Any],
    arch: Arch,
    progress: Progress,
    *,
    library: Callable[[str], str | None] = lambda _: None,
) -> Proof:
    """Tries everything that `report` (report.json) promises of the image that is unpacked at `root`.

    ProofFailed (exit 4) with all that failed; VerificationFailed where no Python runs at all. `library` says
    what config.yaml needs for a soname.
    """
    started = time.monotonic()
    settings = read_settings(root)
    promises = report["promises"]
    timeout_s = float(promises["timeout_s"])
    runner: Runner
    not_proven: tuple[str, ...] = ()
    try:
        if arch == host_arch():
            smoke = verify.smoke(root)
            how, level, python = "jail", smoke.level, smoke.version
            runner = Jailed(root, timeout_s)
        else:
            runner = emulated(root, settings, timeout_s)
            how, level, python = "emulated", None, _emulated_version(runner, arch, settings)
            not_proven = NOT_PROVEN
    except VerificationFailed:
        raise
    except SandboxError as error:
        said = error.message.splitlines()[-1]
        if arch == host_arch():
            progress.warn(f"not tried here: {said}")
        return _nothing(arch, f"that anything can be imported or run: {said}", started)
    context = Context(
        limits=settings["limits"],
        timeout_s=timeout_s,
        waited_s=runner.timeout_s,
        owners=_owners(report["distributions"]),
        locked=frozenset(one["name"] for one in report["distributions"] if one["locked"]),
        library=library,
        warm=frozenset(promises.get("warm", ())),
    )
    names, skipped = _names(report, progress)
    jobs = [*_import_jobs(names, runner, context), *_snippet_jobs(promises["snippets"], runner, context)]
    # At level landlock all runs have this user's uid, and with it one limit of processes.
    most = 1 if level == "landlock" else len(os.sched_getaffinity(0))
    attempts = _run(jobs, settings["uid_range"], most, progress)
    pairs = list(zip(jobs, attempts, strict=True))
    failures = []
    for job, attempt in pairs:
        if job.holds(attempt):
            continue
        failure = job.explain(attempt)
        if how == "emulated" and died(attempt):
            not_proven += (f"{failure.what}, since qemu may be at fault: {failure.why.splitlines()[0]}",)
            progress.warn(f"{arch.name}: not proven: {not_proven[-1]}")
        else:
            failures.append(failure)
    if failures:
        where = {"jail": "in the finished jail of", "emulated": "through qemu in the finished tree of"}[how]
        raise ProofFailed(failures, len(jobs), f"{where} {arch.name}")
    return Proof(
        arch=arch.name,
        how=how,
        level=level,
        python=python,
        imports=tuple(
            Imported(job.name, job.distribution, round(attempt.seconds, 3), _denied(attempt))
            for job, attempt in pairs
            if attempt.seconds is not None and job.holds(attempt)
        ),
        snippets=sum(job.is_snippet and job.holds(attempt) for job, attempt in pairs),
        skipped=skipped,
        nameless=_nameless(report),
        not_proven=not_proven,
        seconds=round(time.monotonic() - started, 3),
    )


def _nothing(arch: Arch, why: str, started: float) -> Proof:
    seconds = round(time.monotonic() - started, 3)
    return Proof(arch.name, "nothing", None, None, (), 0, (), (), (why,), seconds)


def _names(
    report: Mapping[str, Any], progress: Progress
) -> tuple[dict[str, Mapping[str, Any] | None], tuple[str, ...]]:
    """Each module to import, with its distribution (None: asked for by name), and those that are left out."""
    names: dict[str, Mapping[str, Any] | None] = {}
    for one in report["distributions"]:
        for name in one["imports"]:
            names.setdefault(name, one)
    for name in report["promises"]["imports"]:
        names.setdefault(name, None)
    if len(names) > _MOST_IMPORTS or any(len(name) > _LONGEST_NAME for name in names):
        raise VerificationFailed(
            f"more than {_MOST_IMPORTS} modules to import, or a name of more than {_LONGEST_NAME} characters",
            "leave packages out: verify: {skip: [...]}",
        )
    used: set[str] = set()
    skipped = []
    for name, one in list(names.items()):
        for left_out in report["promises"]["skip"]:
            by_package = one is not None and normalized(one["name"]) == normalized(left_out)
            if by_package or name == left_out or name.startswith(f"{left_out}."):
                used.add(left_out)
                names.pop(name, None)
                skipped.append(name)
    used |= {one for one in report["promises"]["skip"] if _is_package(one, report)}
    for left_out in report["promises"]["skip"]:
        if left_out not in used:
            progress.warn(f"verify.skip: {left_out} is no package and no module that would be imported")
    for name in report["promises"].get("warm", ()):
        names.setdefault(name, None)  # no server starts without it
    return names, tuple(name for name in dict.fromkeys(skipped) if name not in names)


def _is_package(name: str, report: Mapping[str, Any]) -> bool:
    return any(normalized(one["name"]) == normalized(name) for one in report["distributions"])


def _nameless(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The distributions of which no module is known, less those that verify.skip names."""
    left_out = {normalized(name) for name in report["promises"]["skip"]}
    found = (one["name"] for one in report["distributions"] if not one["imports"])
    return tuple(name for name in found if normalized(name) not in left_out)


def _owners(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Top-level name -> the distribution that has it."""
    return {name.partition(".")[0]: one["name"] for one in found for name in one["imports"]}


def _import_jobs(
    names: Mapping[str, Mapping[str, Any] | None], runner: Runner, context: Context
) -> list[_Job]:
    def job(name: str, one: Mapping[str, Any] | None) -> _Job:
        distribution, version = (one["name"], one["version"]) if one is not None else (None, "")
        return _Job(
            name=name,
            run=lambda uid, cancel: try_import(runner, name, uid, cancel),
            holds=lambda attempt: attempt.imported,
            explain=lambda attempt: explain_import(name, distribution, version, attempt, context),
            distribution=distribution,
        )

    return [job(name, one) for name, one in names.items()]


def _snippet_jobs(snippets: Sequence[Mapping[str, Any]], runner: Runner, context: Context) -> list[_Job]:
    def job(number: int, code: str, expected: str | None) -> _Job:
        return _Job(
            name=f"snippet {number}",
            run=lambda uid, cancel: try_snippet(runner, code, expected, uid, cancel),
            holds=lambda attempt: snippet_holds(expected, attempt),
            explain=lambda attempt: explain_snippet(number, expected, attempt, context),
            is_snippet=True,
        )

    return [job(number, one["code"], one["output"]) for number, one in enumerate(snippets)]


def _run(jobs: Sequence[_Job], uid_range: Sequence[int], most: int, progress: Progress) -> list[Attempt]:
    """Runs all jobs, at most `most` at once, each with a uid that no other has; in the order of `jobs`."""
    workers = max(min(most, uid_range[1], len(jobs)), 1)
    uids: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(workers):
        uids.put(jailrun.own_uid(uid_range, slot, workers))
    cancel, canceller = os.pipe()

    def run(job: _Job) -> Attempt:
        uid = uids.get()
        try:
            return job.run(uid, cancel)
        finally:
            uids.put(uid)

    with os.fdopen(cancel, "rb"), os.fdopen(canceller, "wb", buffering=0) as ending:
        pool = ThreadPoolExecutor(workers)
        try:
            futures = {pool.submit(run, job): job for job in jobs}
            pending, done = set(futures), 0
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()  # what is no attempt at all ends the proof
                    done += 1
                    progress.detail(f"importing {done} of {len(jobs)}: {futures[future].name}")
            return [future.result() for future in futures]
        finally:
            ending.write(b"\0")  # Ctrl-C, too: no run outlives the proof
            pool.shutdown(cancel_futures=True)


def _emulated_version(runner: Runner, arch: Arch, settings: Mapping[str, Any]) -> str:
    """The version of the interpreter that ran.

    BuildError where this machine cannot enter the tree; VerificationFailed where it can and no Python runs.
    """
    attempt = try_snippet(runner, verify.PROBE, None, jailrun.own_uid(settings["uid_range"]))
    if attempt.outcome.exit_code == 0:
        return attempt.stdout.decode(errors="replace").strip()
    said = attempt.stderr.strip()
    if said.startswith(ENTERING):
        raise BuildError(said)
    raise VerificationFailed(
        f"the finished tree of {arch.name} does not run Python through qemu "
        f"(exit code {attempt.outcome.exit_code}):\n{said}",
        "a newer qemu-user-static may know more system calls",
    )


def _denied(attempt: Attempt) -> int:
    return sum(one.count for one in attempt.outcome.denied)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
