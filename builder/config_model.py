"""The schema of config.yaml: every key with its type, its default and what it means.

The docstring below a key is its description in the JSON schema and the hint of its errors.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from builder import config_values as values
from builder import package_values, serve_values
from builder.config_yaml import Location

OPTIONAL_SYSTEM_PATHS: tuple[str, ...] = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/resolvconf/resolv.conf",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/etc/timezone",
)
"""The system files of dify-sandbox's default python_lib_path: a base without one of them is no error."""

T = TypeVar("T")
# YAML has lists; a frozen config holds tuples. Everything else is strict.
List = Annotated[tuple[T, ...], Field(strict=False)]
JailPath = Annotated[str, AfterValidator(values.absolute_path)]
Size = Annotated[int, BeforeValidator(values.size_bytes, json_schema_input_type=int | str)]
Syscall = Annotated[str, BeforeValidator(values.syscall_name)]
SyscallOrNumber = Annotated[
    int | str, PlainValidator(values.syscall_name_or_number, json_schema_input_type=int | str)
]
Group = Annotated[str, AfterValidator(values.group_name)]
Variable = Annotated[str, AfterValidator(values.variable_name)]
Duration = Annotated[
    float,
    BeforeValidator(values.duration_s, json_schema_input_type=str),
    PlainSerializer(values.duration_text, return_type=str),
]
UidRange = Annotated[tuple[int, int], Field(strict=False), BeforeValidator(values.uid_range)]
IndexUrl = Annotated[str, AfterValidator(values.index_url)]
MirrorUrl = Annotated[str, AfterValidator(values.mirror_url)]
Proxy = Annotated[str, AfterValidator(values.proxy_url)]
SocksProxy = Annotated[str, AfterValidator(values.socks_url)]

Dependencies = Annotated[
    tuple[str, ...] | str,
    BeforeValidator(package_values.dependencies, json_schema_input_type=list[str] | str),
]
Distribution = Annotated[str, AfterValidator(package_values.distribution)]
DebianPackage = Annotated[str, AfterValidator(package_values.debian_package)]
PythonVersion = Annotated[str, PlainValidator(package_values.python_version, json_schema_input_type=str)]
Module = Annotated[str, AfterValidator(package_values.module_name)]

Destination = Annotated[str, AfterValidator(serve_values.destination)]
RequestedVariable = Annotated[str, AfterValidator(serve_values.requested_variable)]
Unique = AfterValidator(serve_values.unique)

KiB, MiB = 1 << 10, 1 << 20


class Section(BaseModel):
    """A mapping whose keys are known; one without a value (nothing, null, empty text) keeps its default."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = keys_of(cls)
        return {key: value for key, value in data.items() if value not in (None, "") or key not in known}


class App(Section):
    """The HTTP service, as dify-sandbox has it."""

    port: int = Field(default=8194, ge=1, le=65535)
    """HTTP port, 1 to 65535."""
    debug: bool = True
    """Verbose logs."""
    key: str = Field(default="", repr=False)
    """The key that clients send as X-Api-Key; there is none by default."""
    insecure: bool = False
    """Serves without a key, or with dify-sandbox's default one."""
    max_body_bytes: Size = Field(default=32 * MiB, alias="max_body", ge=KiB, le=256 * MiB)
    """Largest request: bytes or a size such as 32MiB, 1KiB to 256MiB."""
    grace_s: float = Field(default=8, ge=0, le=3600, allow_inf_nan=False)
    """Seconds that requests in flight get to end once the server is told to stop, 0 to 3600."""
    spares: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that wait for a run, locked down, 0 to 10000; by default as many as max_workers."""


class Network(Section):
    """Where a run with network may connect to."""

    allow: Annotated[List[Destination], Unique] = ()
    """HOST:PORT of everything that a run may connect to; by default all that the container reaches."""


class Proxies(Section):
    """What a run with network gets as HTTP_PROXY and HTTPS_PROXY."""

    socks5: SocksProxy | None = Field(default=None, repr=False)
    """A SOCKS 5 proxy for everything: socks5://HOST:PORT."""
    http: Proxy | None = Field(default=None, repr=False)
    """The proxy for http: http://HOST:PORT."""
    https: Proxy | None = Field(default=None, repr=False)
    """The proxy for https: http://HOST:PORT."""


class Image(Section):
    """What the image is called."""

    repository: Annotated[str, AfterValidator(values.repository)] = "sandbox-python"
    """The image's name, with a registry before it where it is pushed to one."""
    tag: Annotated[str, AfterValidator(values.tag)] = "latest"
    """The image's tag: at most 128 letters, digits, _ . and -."""
    labels: dict[
        Annotated[str, AfterValidator(values.label_key)], Annotated[str, AfterValidator(values.label_value)]
    ] = Field(default_factory=dict)
    """Labels of the image: text by text."""
    compression: Literal["gzip", "zstd"] = "gzip"
    """How layers are compressed: gzip, which every engine reads, or zstd, which is smaller."""
    sign: List[Annotated[str, AfterValidator(values.command_word)]] = ()
    """A command that signs what was pushed: one word an entry, {image} is NAME@DIGEST."""


class Conditions(Section):
    """When a system call is allowed or denied."""

    when: list[str] = Field(min_length=1)
    """Any one suffices: argument == value, argument & mask == value, several of them joined by `and`."""


_Conditional = Annotated[dict[str, Conditions], Field(min_length=1, max_length=1)]
# The name of a call, or {NAME: {when: [CONDITION, ...]}}.
SyscallEntry = Annotated[
    str | dict[str, dict[str, list[str]]],
    PlainValidator(values.syscall_entry, json_schema_input_type=str | _Conditional),
]


class Syscalls(Section):
    """What the seccomp policy lets through, by name, on every architecture."""

    groups: List[Group] = ()
    """Groups of system calls out of images/python/seccomp.yaml that are allowed besides the default ones."""
    allow: List[SyscallEntry] = ()
    """Single calls that are allowed besides: a name, or {NAME: {when: [CONDITION, ...]}}."""
    deny: List[SyscallEntry] = ()
    """Calls that are denied even where a group allows them: a name, or {NAME: {when: [CONDITION, ...]}}."""
    unsafe: List[Syscall] = ()
    """Dangerous calls (ptrace, mount, io_uring_setup) that are allowed all the same."""
    replace: bool = False
    """Puts `groups` and `allow` in place of the default groups, which are left out."""
    on_denied: Literal["errno", "kill", "log"] = "errno"
    """What a denied call comes to: errno (it fails), kill (the process ends), log (it is let through)."""


class Limits(Section):
    """What one run may use at most."""

    memory_bytes: Size = Field(default=1024 * MiB, alias="memory", ge=16 * MiB)
    """Address space of a run: bytes or a size such as 1GiB, at least 16MiB."""
    cpu_s: int = Field(default=10, ge=1, le=86400)
    """CPU seconds, 1 to 86400."""
    file_size_bytes: Size = Field(default=64 * MiB, alias="file_size")
    """Largest file that a run may write: bytes or a size such as 64MiB."""
    processes: int = Field(default=64, ge=1, le=4_194_304)
    """Processes and threads of the run's user, at least 1."""
    open_files: int = Field(default=256, ge=16, le=1_048_576)
    """Open descriptors, 16 to 1048576."""
    output_bytes: Size = Field(default=10 * MiB, alias="output")
    """What a run may print before it is cut off: bytes or a size such as 10MiB."""
    scratch_bytes: Size = Field(default=64 * MiB, alias="scratch")
    """What a run may keep in its private folder, where it has one: bytes or a size such as 64MiB."""


class Jail(Section):
    """How a run is confined."""

    level: Literal["any", "chroot", "landlock"] = "any"
    """The confinement that a run requires: chroot, landlock, or any (chroot where it can be had)."""
    namespaces: List[Literal["net", "ipc", "uts"]] = ("net", "ipc", "uts")
    """Namespaces of its own that a run gets where the kernel allows it: net, ipc, uts."""
    uid_range: UidRange = (10_000, 50_000)
    """[FIRST, COUNT] of the user ids that runs get: from 1000 on and below 2^31."""
    env: dict[Variable, Annotated[str, AfterValidator(values.variable_value)]] = Field(default_factory=dict)
    """Environment variables of every run: text by name."""
    env_keep: List[Variable] = ("TZ",)
    """Environment variables that a run takes over from the container."""
    env_allow: Annotated[List[RequestedVariable], Unique] = ()
    """Environment variables that a request may set for its run."""


class Snippet(Section):
    """A program that must succeed in the finished jail."""

    code: str
    """Python code that is run in the finished jail."""
    output: str | None = None
    """Exactly what it must print; anything, when not given."""


class Verify(Section):
    """What a build tries in the finished jail, besides importing every package."""

    imports: List[Module] = ()
    """Modules that must be importable, besides those of the packages."""
    snippets: List[Snippet] = ()
    """Programs that must succeed: {code: TEXT, output: TEXT}."""
    skip: List[str] = ()
    """Packages or modules that are not imported."""
    timeout_s: float = Field(default=60, gt=0, le=86400, allow_inf_nan=False)
    """Seconds of wall clock that one import or snippet may take, more than 0."""


class Config(Section):
    """What config.yaml and the environment came to."""

    base: Annotated[str, AfterValidator(values.base)] = "debian:trixie"
    """Where Python comes from: debian:SUITE, an image reference, or host."""
    base_mirror: MirrorUrl | None = Field(default=None, repr=False)
    """Mirror of Debian's archive for a debian: base, in place of mmdebstrap's own ones."""
    base_snapshot: MirrorUrl | None = Field(default=None, repr=False)
    """An archive of Debian's past, for locked packages that the mirror no longer has."""
    base_packages: List[DebianPackage] = ()
    """Debian packages that a debian: base has besides the interpreter's."""
    image: Image = Field(default_factory=Image)
    """The image's name, tag, labels, compression, and who signs it."""
    python_path: JailPath | None = None
    """The interpreter's path in the base; found by itself when not given."""
    python_version: PythonVersion | None = None
    """The interpreter's version, such as "3.13", for a base that does not say it."""
    dependencies: Dependencies | None = None
    """Python packages: a list of requirements, or the path of a requirements file."""
    from_source: dict[Distribution, List[DebianPackage]] = Field(default_factory=dict)
    """Packages that are built from source, each with the Debian packages that its build needs."""
    keep_whole: List[Distribution] = ()
    """Packages whose tests, type stubs and headers stay."""
    verify: Verify = Field(default_factory=Verify)
    """What a build tries in the finished jail: imports, snippets, skip, timeout_s."""
    libraries: Literal["auto", "strict"] = "auto"
    """Shared libraries that the base lacks: auto takes them from Debian, strict fails. For debian: bases."""
    optional_libraries: List[Annotated[str, AfterValidator(values.plain_path)]] = ()
    """Shared libraries that may be missing: names, or patterns such as libcuda.so.*."""
    python_lib_path: List[JailPath] | None = None
    """Exactly these folders and files besides what the interpreter needs; found by itself when not given."""
    system_lib_requirements: List[JailPath] | None = None
    """System files in the jail (certificates, time zones, name service), in place of the default ones."""
    python_pip_mirror_url: IndexUrl | None = Field(default=None, repr=False)
    """Package index for pip."""
    python_deps_update_interval: Duration = 1800.0
    """How often dify-sandbox copies its tree anew: a duration such as 30m. An image has nothing to copy."""
    syscalls: Syscalls = Field(default_factory=Syscalls)
    """System calls that are allowed or denied besides the default ones."""
    enable_network: bool = False
    """Allows the network's system calls."""
    network: Network = Field(default_factory=Network)
    """Where a run with network may connect to: allow."""
    enable_preload: bool = False
    """Honours the `preload` text of a request."""
    allowed_syscalls: List[SyscallOrNumber] = ()
    """dify-sandbox's list, of numbers or names: calls that are allowed besides, all but dangerous ones."""
    allowed_syscalls_arch: Literal["amd64", "arm64"] = "amd64"
    """The architecture whose numbers allowed_syscalls has: amd64, arm64."""
    limits: Limits = Field(default_factory=Limits)
    """Memory, CPU time, processes and output that one run may use at most."""
    jail: Jail = Field(default_factory=Jail)
    """The confinement of a run: level, namespaces, user ids, environment."""
    app: App = Field(default_factory=App)
    """The HTTP service: port, debug, key, and what it holds ready."""
    warm: Annotated[List[Module], Unique] = ()
    """Modules that are imported once, for all runs of a server."""
    fresh: bool = False
    """Starts an interpreter for each run, in place of a fork of one that has `warm` imported."""
    max_workers: int = Field(default=4, ge=1, le=10_000)
    """Runs at once; further ones wait. 1 to 10000."""
    max_requests: int = Field(default=50, ge=1, le=1_000_000)
    """Requests in flight; further ones are turned away. 1 to 1000000."""
    worker_timeout: float = Field(default=5.0, gt=0, le=86400, allow_inf_nan=False)
    """Seconds of wall clock that one run may take, more than 0."""
    nodejs_path: JailPath = "/usr/local/bin/node"
    """The interpreter of dify-sandbox's second language."""
    proxy: Proxies = Field(default_factory=Proxies)
    """Proxies of a run with network: socks5, http, https."""
    log_path: Annotated[str, AfterValidator(values.plain_path)] = "./logs"
    """Folder for the service's logs."""


def keys_of(section: type[Section]) -> dict[str, Any]:
    """The keys of a section as config.yaml spells them, with the type that each of them has."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a key's type is, None where it is a value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def network_problems(config: Config, given: Container[str]) -> Iterator[tuple[Location, str, str]]:
    """(where, what is wrong, hint) for each key that does not go with network.allow; only keys in `given`."""
    if not config.network.allow:
        return
    if "enable_network" in given and not config.enable_network:
        what = "the network is off, so there is nothing to allow"
        yield ("network", "allow"), what, "enable_network: true opens it, to these destinations alone"
    proxies = config.proxy.model_dump()
    for key, url in proxies.items():
        if url and not serve_values.is_http_proxy(url):
            hint = "with network.allow all connections go through one proxy: http://HOST:PORT"
            yield ("proxy", key), "this proxy cannot be used beside network.allow", hint
    if proxies["http"] and proxies["https"] and proxies["http"] != proxies["https"]:
        hint = "with network.allow all connections go through one proxy: give both keys the same"
        yield ("proxy", "https"), "this is another proxy than proxy.http", hint
