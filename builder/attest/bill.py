"""The bill of materials as one neutral model: report.json, the tree's manifest and the build's facts, joined.

cyclonedx.py and spdx.py render it; neither of them decides anything.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from builder.attest.facts import BuildFacts
from builder.attest.manifest import Manifest
from builder.attest.purl import apk_purl, deb_purl, purl, pypi_purl
from builder.errors import printable
from builder.report import Owner, Report
from builder.tree.distributions import normalized
from builder.tree.origin import LOADER
from builder.tree.spec import TREE_PATH

IMAGE = "image"
INTERPRETER = "interpreter"
RUNTIME = "sandbox-build"
_SYSTEM = "operating-system"
"""The keys of what every image has once."""


@dataclass(frozen=True)
class Component:
    """One thing that an image is made of."""

    key: str
    """Says which one it is, within one bill."""
    kind: str
    """image, deb, apk, python, interpreter, runtime, file, folder or system."""
    name: str
    version: str = ""
    purl: str | None = None
    cpe: str | None = None
    sha256: str | None = None
    """Of the file itself; of a package that of the .deb or wheel that it came in."""
    source: str = ""
    """The source package."""
    about: str = ""
    """Why it is there."""
    needs: tuple[str, ...] = ()
    """Keys of what it cannot work without, sorted."""
    holds: tuple[str, ...] = ()
    """Keys of what lies in it, sorted."""


@dataclass(frozen=True)
class Bill:
    """What one image is made of."""

    image: Component
    components: tuple[Component, ...]
    """Everything else, sorted by key."""
    created: str
    """The image's own date, as RFC 3339 has it."""
    serial: uuid.UUID
    """Of the image's digest: the same image, the same bill."""
    tool_version: str


def make_bill(
    report: Report,
    manifest: Manifest,
    facts: BuildFacts,
    *,
    digest: str,
    created: str,
) -> Bill:
    """The bill of the image with this `digest` (sha256:HEX), `created` then.

    Everything in the tree belongs to a component: to a package of the base, a Python distribution, the
    interpreter, sandbox-build, or, where none claims it, to one of its own.
    """
    maker = _Maker(report, manifest, facts)
    components = maker.components()
    repository = str(facts.config["image"]["repository"])
    image = Component(
        IMAGE,
        "image",
        name=repository,
        version=digest,
        purl=purl(
            "oci",
            repository.rpartition("/")[2].lower(),
            version=digest,
            qualifiers={"arch": report.arch},
        ),
        sha256=digest.removeprefix("sha256:"),
        needs=_roots(maker.of_origin, report, components),
    )
    return Bill(
        image=image,
        components=tuple(components[key] for key in sorted(components)),
        created=created,
        serial=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:oci:{digest}"),
        tool_version=facts.builder_version,
    )


class _Maker:
    """Makes the components, then joins them by what their origins need."""

    def __init__(self, report: Report, manifest: Manifest, facts: BuildFacts) -> None:
        self._report = report
        self._manifest = manifest
        self._facts = facts
        self._os: Mapping[str, str] = report.os_release
        self._found: dict[str, Component] = {}
        self.of_origin: dict[int, set[str]] = {index: set() for index in range(len(report.origins))}
        """The components that an origin's files belong to."""

    def components(self) -> dict[str, Component]:
        """All but the image, by key."""
        self._add_own()
        self._add_distributions()
        self._add_owners("deb", self._report.debian)
        self._add_owners("apk", self._report.apk)
        self._add_unclaimed()
        self._join()
        return self._found

    def _add(self, component: Component, origins: Iterable[int] = ()) -> None:
        self._found[component.key] = component
        for index in origins:
            self.of_origin[index].add(component.key)

    def _add_own(self) -> None:
        """The interpreter, the runtime, and the distribution that the base is of."""
        report = self._report
        python = report.python
        release = str(python.get("release") or python["version"])
        by_kind = {kind: report.of_kind(kind) for kind in ("python", "supplied")}
        interpreter = [index for index in by_kind["python"] if report.origins[index].what != LOADER]
        packaged = any(set(owner.origins) & set(interpreter) for owner in (*report.debian, *report.apk))
        # A distribution mends its Python without another version, which its own package says.
        cpe = None if packaged else f"cpe:2.3:a:python:python:{release}:*:*:*:*:*:*:*"
        text = report.origins[0].text
        self._add(
            Component(
                *(INTERPRETER, "interpreter", "python", release),
                purl=purl("generic", "python", version=release),
                cpe=cpe,
                about=text,
            ),
            interpreter,
        )
        version = self._facts.builder_version
        self._add(
            Component(
                *(RUNTIME, "runtime", "sandbox-build", version),
                purl=purl("generic", "sandbox-build", version=version),
                about="the runtime, and what sandbox-build wrote into the tree",
                needs=(INTERPRETER,),
            ),
            by_kind["supplied"],
        )
        if "id" in self._os:
            version = self._os.get("version_id", self._os.get("version_codename", ""))
            self._add(Component(_SYSTEM, "system", self._os["id"], version, about=f"base: {report.base}"))

    def _add_distributions(self) -> None:
        hashes = {(normalized(one.name), one.version): one.sha256 for one in self._facts.wheels}
        for one in self._report.distributions:
            index = self._report.origin_of(one)
            if index is None or not self._report.sizes[index].files:
                continue
            digest = hashes.get((normalized(one.name), one.version)) if one.locked else None
            component = Component(
                key=f"python:{_shown(one.path)}",
                kind="python",
                name=one.name,
                version=one.version,
                purl=pypi_purl(one.name, one.version),
                sha256=digest,
                about=self._report.origins[index].text,
            )
            self._add(component, [index])

    def _add_owners(self, kind: str, owners: Iterable[Owner]) -> None:
        hashes = {(one.name, one.version, one.architecture): one.sha256 for one in self._facts.debs}
        for one in owners:
            named = (one.name, one.version, one.architecture)
            address = apk_purl(*named, self._os) if kind == "apk" else deb_purl(*named, one.source, self._os)
            component = Component(
                key=f"{kind}:{one.name}:{one.architecture}",
                kind=kind,
                name=one.name,
                version=one.version,
                purl=address,
                sha256=hashes.get(named) if kind == "deb" else None,
                source=one.source,
                about=self._report.origins[one.origins[0]].text,
            )
            self._add(component, one.origins)

    def _add_unclaimed(self) -> None:
        """A component for each file; those of one listed folder lie in one of its own."""
        inside: dict[int, list[str]] = {}
        for path in self._report.unclaimed:
            index = self._report.files[path][1]
            listed = self._report.origins[index].kind not in ("library", "system", "python")
            component = Component(
                key=f"file:{_shown(path)}",
                kind="file",
                name=_shown(path),
                sha256=self._manifest.sha256(f"{TREE_PATH}{path}"),
                about=self._report.origins[index].text,
            )
            self._add(component, () if listed else [index])
            if listed:
                inside.setdefault(index, []).append(component.key)
        for index, keys in inside.items():
            origin = self._report.origins[index]
            component = Component(
                key=f"folder:{index}:{_shown(origin.what)}",
                kind="folder",
                name=_shown(origin.what),
                about=origin.text,
                holds=tuple(sorted(keys)),
            )
            self._add(component, [index])

    def _join(self) -> None:
        """What a component needs: what its origins need, and the packages that own its files."""
        needs = {key: set(one.needs) for key, one in self._found.items()}
        for index, origin in enumerate(self._report.origins):
            own = self._named(index)
            needed = {key for other in origin.needs for key in self._named(other)}
            for key in own:
                needs[key] |= needed | (self.of_origin[index] - own)
        for key, found in needs.items():
            self._found[key] = replace(self._found[key], needs=tuple(sorted(found - {key})))

    def _named(self, index: int) -> set[str]:
        """What stands for an origin: the interpreter or distribution that it is, else what has its files."""
        keys = self.of_origin[index]
        return {key for key in keys if self._found[key].kind in ("interpreter", "python", "runtime")} or keys


def _roots(
    of_origin: Mapping[int, Iterable[str]], report: Report, components: Mapping[str, Component]
) -> tuple[str, ...]:
    """What the image needs: what is there for itself, and whatever that would not lead to."""
    asked = {RUNTIME, *(key for index, keys in of_origin.items() if _is_asked(report, index) for key in keys)}
    held = {key for one in components.values() for key in one.holds}
    reached: set[str] = set()
    pending = sorted(asked)
    rest = sorted(components)
    while pending or rest:
        if not pending:
            key = rest.pop(0)
            if key in reached or key in held:
                continue
            asked.add(key)
            pending.append(key)
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending += (*components[key].needs, *components[key].holds)
    return tuple(sorted(asked))


def _is_asked(report: Report, index: int) -> bool:
    return report.origins[index].because is None


def _shown(text: str) -> str:
    """A path that any JSON reader takes, and that no other path is shown as."""
    return printable(text.replace("\\", "\\\\"))


def properties(component: Component) -> dict[str, Any]:
    """What neither format has a field for, by name."""
    found = {"origin": _shown(component.about), "source-package": component.source, "kind": component.kind}
    return {name: value for name, value in found.items() if value}
