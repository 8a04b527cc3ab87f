"""An image with packages that a test makes, as small as a module with one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.arch import Arch
from builder.progress import Progress
from builder.proof import Proof, prove
from builder.tree.distributions import distributions
from builder.tree.root import Root
from builder.tree.spec import PACKAGES_PATH, REPORT_PATH, SANDBOX_PATH
from tests.suite.place import Place


@dataclass(frozen=True)
class Shop:
    """A copy of an image's root with packages of its own."""

    place: Place
    arch: Arch

    @classmethod
    def open(cls, root: Path, folder: Path, arch: Arch) -> Shop:
        """A shop in `folder`, which must not exist, that sells nothing yet."""
        place = Place.copy(root, folder)
        place.search(PACKAGES_PATH)
        return cls(place, arch)

    @property
    def folder(self) -> Path:
        return self.place.tree / PACKAGES_PATH.lstrip("/")

    def add(self, name: str, files: Mapping[str, str | bytes], version: str = "1.0") -> None:
        """A distribution with these files, which it lists in its RECORD."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        all_files = dict(files) | {f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n"}
        all_files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files)
        for path, content in all_files.items():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def limit(self, **limits: int) -> None:
        """Makes these limits those of every run, by their names in runtime.json."""
        path = self.place.root / SANDBOX_PATH.lstrip("/") / "runtime.json"
        settings = self.place.settings
        settings["limits"] |= limits
        path.unlink()  # another root may share its bytes
        path.write_text(json.dumps(settings))

    def report(self, *names: str, **promises: Any) -> dict[str, Any]:
        """What report.json says where only the distributions `names` are there."""
        tree = Root(self.place.tree)
        found = distributions(tree, [PACKAGES_PATH], tree.is_file)
        settings = self.place.settings
        return {
            "format": 1,
            "arch": self.arch.name,
            "python": {"path": settings["python"], "sys_path": settings["sys_path"]},
            "distributions": [asdict(one) for one in found if one.name in names],
            "promises": {"imports": [], "snippets": [], "skip": [], "timeout_s": 60} | promises,
        }

    def write_report(self, *names: str, optional_libraries: Sequence[str] = (), **promises: Any) -> None:
        """Makes that the image's own."""
        path = self.place.root / REPORT_PATH.lstrip("/")
        path.unlink(missing_ok=True)  # another root may share its bytes
        more = {"optional_libraries": list(optional_libraries)}
        path.write_text(json.dumps(self.report(*names, **promises) | more))

    def prove(self, *names: str, **promises: Any) -> Proof:
        """The proof of the distributions `names`, with `promises` as of config.yaml's verify."""
        return prove(self.place.root, self.report(*names, **promises), self.arch, Progress(quiet=True))
