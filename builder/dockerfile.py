"""BuildPlan's facts -> the text of a Dockerfile. Pure: nothing is read but the template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from builder.arch import Arch
from builder.config_values import LABEL_NAME
from builder.errors import ConfigError
from builder.tree.spec import INIT_PATH, ISOLATED, SANDBOX_PATH

LAYERS_STAGE = "layers"
"""The stage that has nothing but the assembler's output folders."""

_PACKAGES = "/context/packages"
_BYTECODE = "/bytecode"

# An image reference in characters that mean nothing to a Dockerfile; whether it exists is Docker's to say.
_REFERENCE = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*")


@dataclass(frozen=True)
class DockerfileInputs:
    """What a Dockerfile depends on."""

    arch: Arch
    python_path: str
    """The interpreter, at the same path in the base and in the image."""
    image: str | None = None
    """The base's image reference; None: the base is target.tar in the context."""
    base: str = ""
    """The base's name, as config.yaml has it."""
    layers: tuple[str, ...] = ("root",)
    """The assembler's output folders, each of them one layer of the image, in this order."""
    packages: bool = False
    """The context has packages.tar."""
    foreign: bool = False
    """The machine that builds is of another architecture, and has its own base in assembler.tar."""
    labels: Mapping[str, str] = field(default_factory=dict)


def render_dockerfile(inputs: DockerfileInputs) -> str:
    """The Dockerfile that builds `inputs` from a context directory, with BuildKit of Docker 20.10 and newer.

    No value can add an instruction: ConfigError for a label or a reference that a Dockerfile cannot hold.
    """
    # Not HTML: what needs quoting in a Dockerfile goes through the filters below.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("images", "python"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "exec_form": _exec_form,
        "label_name": _label_name,
        "quoted": _quoted,
        "reference": _reference,
    }
    return environment.get_template("Dockerfile.j2").render(
        arch=inputs.arch,
        image=inputs.image,
        foreign=inputs.foreign,
        labels=sorted(inputs.labels.items()),
        layers=inputs.layers,
        layers_stage=LAYERS_STAGE,
        packages=_PACKAGES if inputs.packages else None,
        bytecode=_BYTECODE,
        bytecode_id=f"sandbox-build-{bytecode_shelf(inputs.base)}",
        assemble=(
            *(inputs.python_path, *ISOLATED),
            *assembler_arguments(
                context="/context",
                root="/target",
                out="/out",
                packages=_PACKAGES if inputs.packages else None,
                bytecode=_BYTECODE,
            ),
        ),
        entrypoint=entrypoint(inputs.python_path),
    )


def assembler_arguments(
    *, context: str, root: str, out: str, packages: str | None = None, bytecode: str | None = None
) -> tuple[str, ...]:
    """The assembler's command line behind the interpreter, in the Dockerfile and on the host alike."""
    return (
        f"{context}/assembler",
        *("--root", root),
        *("--spec", f"{context}/spec.json"),
        *("--runtime", f"{context}/runtime"),
        *("--policy", f"{context}/policy.bpf"),
        *("--out", out),
        *(("--packages", packages) if packages else ()),
        *(("--bytecode", bytecode) if bytecode else ()),
    )


def bytecode_shelf(base: str) -> str:
    """The name of the bytecode cache for images on `base`.

    One for each base, whose interpreter fills it: no base can give bytecode to the images of another.
    """
    return hashlib.sha256(base.encode()).hexdigest()[:16]


def entrypoint(python_path: str) -> tuple[str, ...]:
    """The command that the image runs: the interpreter isolated, without `site`, from a compiled file."""
    return (INIT_PATH, python_path, *ISOLATED, f"{SANDBOX_PATH}/entrypoint.pyc")


def _exec_form(command: Sequence[str]) -> str:
    # JSON leaves no newline in the text, and BuildKit expands no variable in an exec form.
    return json.dumps(command)


def _quoted(value: str) -> str:
    """A double-quoted word of a Dockerfile that comes out as `value`."""
    if not value.isprintable():
        raise ConfigError(
            [(f"label value {value!r}: a Dockerfile cannot hold a control character", "write it as one line")]
        )
    return '"' + re.sub(r'[\\"$]', r"\\\g<0>", value) + '"'


def _label_name(name: str) -> str:
    if not LABEL_NAME.fullmatch(name):
        hint = "letters and digits, with . _ / - between them: com.example.team"
        raise ConfigError([(f"label {name!r}: not a label's name", hint)])
    return name


def _reference(image: str) -> str:
    if not _REFERENCE.fullmatch(image):
        raise ConfigError([(f"base {image!r}: not an image reference", "NAME:TAG or NAME@DIGEST")])
    return image
