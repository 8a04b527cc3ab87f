"""A user's project: a folder with config.yaml, its lock file, wheels, and what is built of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.arch import host_arch
from builder.cli_options import cache
from tests.conftest import Result, sandbox_build

NO_INDEX = "http://127.0.0.1:9/simple"
"""Where nothing answers."""


@dataclass(frozen=True)
class Project:
    """A folder with a config, whose packages come from a folder of wheels alone."""

    folder: Path
    wheels: Path
    env: dict[str, str] | None = None

    def write(self, *lines: str) -> None:
        """Makes these the config; no index is to be had."""
        self.config.write_text(
            "".join(f"{line}\n" for line in (*lines, f"python_pip_mirror_url: {NO_INDEX}"))
        )

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "dist"

    @property
    def image(self) -> Path:
        return self.output / host_arch().name / "image.tar"

    def report(self) -> dict[str, Any]:
        """What the last build says of its image."""
        return dict(json.loads((self.image.parent / "report.json").read_bytes()))

    def imported(self) -> set[str]:
        """What was imported in the jail."""
        proof = self.report()["proof"]
        assert proof["how"] == "jail"
        return {one["name"] for one in proof["imports"]}

    def lock(self, *arguments: str) -> Result:
        """Locks for this machine's architecture."""
        arch = f"--arch={host_arch().name}"
        done = sandbox_build("lock", arch, *self._offline, *arguments, env=self.env)
        assert done.exit_code == 0, done.stderr
        return done

    def build(self, *arguments: str, driver: str = "oci", output: Path | None = None) -> Result:
        where = f"--output={output or self.output}"
        return sandbox_build(f"--driver={driver}", where, *self._offline, *arguments, env=self.env)

    def built(self, *arguments: str, driver: str = "oci", output: Path | None = None) -> str:
        """Builds, and returns the image's digest."""
        done = self.build(*arguments, driver=driver, output=output)
        assert done.exit_code == 0, done.stderr
        return done.stdout.strip().rpartition("@")[2]

    @property
    def _offline(self) -> tuple[str, ...]:
        return f"--config={self.config}", f"--wheelhouse={self.wheels}", "--no-index"


def fresh_cache(folder: Path) -> dict[str, str]:
    """The environment of a user who has in the cache what came from Debian, and nothing else."""
    made = folder / "sandbox-build"
    made.mkdir(parents=True)
    for name in ("debian", "debian-files"):
        if (cache() / name).is_dir():
            (made / name).symlink_to(cache() / name)
    return {"XDG_CACHE_HOME": str(folder)}
