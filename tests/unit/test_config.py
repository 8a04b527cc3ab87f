"""load_config: defaults, dify-sandbox's files, the environment, and every problem at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder.config import (
    ENVIRONMENT,
    OPTIONAL_SYSTEM_PATHS,
    App,
    Config,
    Image,
    Jail,
    Limits,
    Network,
    Proxies,
    Syscalls,
    effective,
    load_config,
)
from builder.errors import ConfigError
from builder.plan import policy_request

Load = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, environ: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
        Path("config.yaml").write_text(text)
        return load_config(Path("config.yaml"), environ or {})

    return loaded


DIFY = """\
app:
  port: 8194
  debug: True
  key: dify-sandbox
max_workers: 4
max_requests: 50
worker_timeout: 5
python_path: /usr/local/bin/python3
python_lib_path:
  - /usr/local/lib/python3.10
  - /usr/lib/python3.10
  - /usr/lib/python3
  - /usr/lib/x86_64-linux-gnu/libssl.so.3
  - /usr/lib/x86_64-linux-gnu/libcrypto.so.3
  - /etc/ssl/certs/ca-certificates.crt
  - /etc/nsswitch.conf
  - /etc/hosts
  - /etc/resolv.conf
  - /run/systemd/resolve/stub-resolv.conf
  - /run/resolvconf/resolv.conf
python_pip_mirror_url: https://mirror.example/simple
python_deps_update_interval: 30m
nodejs_path: /usr/local/bin/node
enable_network: True # please make sure there is no network risk in your environment
enable_preload: False # please keep it as False for security purposes
log_path: "./logs" # path to store log files, default is "./logs"
allowed_syscalls: # please leave it empty if you have no idea how seccomp works
proxy:
  socks5: ''
  http: ''
  https: ''
"""


def test_dify_config_loads_unchanged(load: Load) -> None:
    """A config.yaml written for dify-sandbox, every key of it present, means here what it means there."""
    config, warnings = load(DIFY)
    assert config == Config(
        app=App(port=8194, debug=True, key="dify-sandbox"),
        max_workers=4,
        max_requests=50,
        worker_timeout=5,
        python_path="/usr/local/bin/python3",
        python_lib_path=(
            "/usr/local/lib/python3.10",
            "/usr/lib/python3.10",
            "/usr/lib/python3",
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
            *OPTIONAL_SYSTEM_PATHS[:6],
        ),
        python_pip_mirror_url="https://mirror.example/simple",
        nodejs_path="/usr/local/bin/node",
        enable_network=True,
        enable_preload=False,
        log_path="./logs",
        allowed_syscalls=(),
        proxy=Proxies(socks5=None, http=None, https=None),
    )
    assert config.python_deps_update_interval == 1800
    assert warnings == []


def test_empty_file_is_the_default_sandbox(load: Load) -> None:
    """Nothing, a comment, and null documents all mean every default."""
    for text in ("", "# nothing\n", "---\n...\n", "null\n", "\ufeff\n", "{}\n"):
        assert load(text) == (Config(), [])


def test_defaults() -> None:
    """The defaults are those of the documentation; the network is off and no API key is set."""
    config = Config()
    assert config.base == "debian:trixie"
    assert config.image == Image(repository="sandbox-python", tag="latest", labels={})
    assert not config.enable_network
    assert config.app == App(port=8194, debug=True, key="")
    assert (config.limits.memory_bytes, config.limits.file_size_bytes) == (1073741824, 67108864)
    assert (config.limits.cpu_s, config.limits.processes, config.limits.open_files) == (10, 64, 256)
    assert config.limits.output_bytes == 10 * 1024 * 1024
    assert (config.app.insecure, config.app.max_body_bytes, config.app.grace_s) == (False, 32 << 20, 8)
    assert (config.app.spares, config.warm, config.fresh) == (None, (), False)
    assert (config.network.allow, config.jail.env_allow) == ((), ())
    assert config.jail == Jail(level="any", namespaces=("net", "ipc", "uts"), uid_range=(10000, 50000))
    assert config.python_path is None
    assert config.python_lib_path is None
    assert config.system_lib_requirements is None


def test_our_keys(load: Load) -> None:
    """Each key that dify-sandbox lacks arrives in the config, converted and in order."""
    config, _ = load("""\
base: python:3.13-slim
base_mirror: http://mirror.example/debian
image: {repository: localhost:5000/team/sandbox, tag: 2026-01-31, labels: {a.b: 'one two', c: ''}}
system_lib_requirements: [/etc/hosts]
syscalls:
  groups: [exec]
  allow: [mbind, {ioctl: {when: [request == TCSETS, arg1 == 3]}}]
  deny: [uname, {mmap: {when: [prot & PROT_EXEC == PROT_EXEC]}}]
  unsafe: [ptrace]
  replace: true
  on_denied: kill
allowed_syscalls_arch: arm64
limits: {memory: 512MiB, cpu_s: 3, file_size: 64M, processes: 1, open_files: 16, output: 4096}
jail: {level: landlock, namespaces: [], uid_range: [1000, 3], env: {A_1: '', b: x}, env_keep: [LANG, TZ],
  env_allow: [USER, PATH]}
enable_network: true
network: {allow: ["API.example.com:443", "10.0.0.0/8:*"]}
app: {insecure: true, max_body: 1MiB, grace_s: 0, spares: 0}
warm: [numpy, numpy.linalg]
fresh: true
worker_timeout: 0.5
""")
    assert config == Config(
        base="python:3.13-slim",
        base_mirror="http://mirror.example/debian",
        image=Image(
            repository="localhost:5000/team/sandbox", tag="2026-01-31", labels={"a.b": "one two", "c": ""}
        ),
        system_lib_requirements=("/etc/hosts",),
        syscalls=Syscalls(
            groups=("exec",),
            allow=("mbind", {"ioctl": {"when": ["request == TCSETS", "arg1 == 3"]}}),
            deny=("uname", {"mmap": {"when": ["prot & PROT_EXEC == PROT_EXEC"]}}),
            unsafe=("ptrace",),
            replace=True,
            on_denied="kill",
        ),
        allowed_syscalls_arch="arm64",
        limits=Limits(memory=512 << 20, cpu_s=3, file_size=64 << 20, processes=1, open_files=16, output=4096),
        jail=Jail(
            level="landlock",
            namespaces=(),
            uid_range=(1000, 3),
            env={"A_1": "", "b": "x"},
            env_keep=("LANG", "TZ"),
            env_allow=("USER", "PATH"),
        ),
        enable_network=True,
        network=Network(allow=("api.example.com:443", "10.0.0.0/8:*")),
        app=App(insecure=True, max_body=1 << 20, grace_s=0.0, spares=0),
        warm=("numpy", "numpy.linalg"),
        fresh=True,
        worker_timeout=0.5,
    )


def test_key_without_a_value_keeps_its_default(load: Load) -> None:
    """Null, nothing and empty text mean "not set", for values and for whole sections."""
    assert load("app:\nlimits: {memory: null}\nbase: ''\npython_path: ''\nproxy: {http: ''}\n")[0] == Config()


def test_given_but_empty_lib_path_is_not_discovery(load: Load) -> None:
    """An empty python_lib_path means nothing besides what the interpreter needs; an absent one, find it."""
    assert load("python_lib_path: []")[0].python_lib_path == ()
    assert load("python_lib_path:")[0].python_lib_path is None


def test_an_alias_is_fine(load: Load) -> None:
    """YAML's anchors work as long as there are few of them."""
    config, _ = load("max_workers: &n 7\nmax_requests: *n\n")
    assert (config.max_workers, config.max_requests) == (7, 7)


def test_allowed_syscalls_takes_numbers_and_names(load: Load) -> None:
    """dify-sandbox's list, in the file or in the environment, arrives in the request for the policy."""
    config, warnings = load("allowed_syscalls: [0, 56, mbind]\nenable_network: true\n")
    assert config.allowed_syscalls == (0, 56, "mbind")
    request = policy_request(config)
    assert (request.numbers, request.numbers_arch, request.network) == ((0, 56, "mbind"), "amd64", True)
    assert warnings == []

    environ = {"ALLOWED_SYSCALLS": "1, 57,mlock", "ENABLE_NETWORK": "0"}
    config, warnings = load("allowed_syscalls: [0]\nenable_network: true\n", environ)
    request = policy_request(config)
    assert (request.numbers, request.network) == ((1, 57, "mlock"), False)
    assert warnings == []


def test_the_config_arrives_in_the_request(load: Load) -> None:
    """Every key of `syscalls` is in what the policy is made of, conditions read."""
    config, _ = load(
        "syscalls: {groups: [exec], allow: [tee, {ioctl: {when: [request == TCSETS]}}], replace: true,\n"
        "  deny: [uname, {mbind: {when: [arg1 == 3, arg2 == NULL]}}], unsafe: [ptrace], on_denied: log}\n"
    )
    request = policy_request(config)
    assert (request.groups, request.unsafe, request.replace) == (("exec",), ("ptrace",), True)
    assert request.on_denied == "log"
    assert [call.name for call in (*request.allow, *request.deny)] == ["tee", "ioctl", "uname", "mbind"]
    assert [[line.text for line in call.lines] for call in (*request.allow, *request.deny)] == [
        *([], ["request == TCSETS"]),
        *([], ["arg1 == 3", "arg2 == NULL"]),
    ]


def test_a_config_made_in_code_is_checked_as_well() -> None:
    """A condition that cannot be read is an error of policy_request: without it the call would be open."""
    with pytest.raises(ConfigError, match="ioctl has no argument"):
        policy_request(Config(syscalls=Syscalls(allow=({"ioctl": {"when": ["req == 1"]}},))))


def test_what_stands_twice_is_a_warning_with_its_line(load: Load) -> None:
    """Repeated entries load, and each is told with its place."""
    text = "syscalls:\n  groups: [exec, exec]\n  allow:\n    - mbind\n    - mbind\nallowed_syscalls: [1, 1]\n"
    _, warnings = load(text)
    assert warnings == [
        'config.yaml:2: syscalls.groups[1]: "exec" is syscalls.groups[0] already',
        'config.yaml:5: syscalls.allow[1]: "mbind" is syscalls.allow[0] already',
        "config.yaml:6: allowed_syscalls: named more than once: 1",
    ]
    _, warnings = load("", {"ALLOWED_SYSCALLS": "read,3,read"})
    assert warnings == ["ALLOWED_SYSCALLS: named more than once: read"]


def test_environment_overrides(load: Load) -> None:
    """Each of dify-sandbox's variables overrides its key, whatever the file says; commas part lists."""
    config, _ = load(
        DIFY,
        {
            "DEBUG": "f",
            "MAX_WORKERS": "9",
            "MAX_REQUESTS": "99",
            "SANDBOX_PORT": "80",
            "WORKER_TIMEOUT": "2.5",
            "API_KEY": "secret",
            "PYTHON_PATH": "/usr/bin/python3",
            "PYTHON_LIB_PATH": "/usr/lib/a, /usr/lib/b,",
            "SYSTEM_LIB_REQUIREMENTS": "/etc/hosts",
            "PIP_MIRROR_URL": "http://localhost:3141/simple",
            "PYTHON_DEPS_UPDATE_INTERVAL": "1h30m",
            "NODEJS_PATH": "/opt/node",
            "ENABLE_NETWORK": "0",
            "ENABLE_PRELOAD": "TRUE",
            "ALLOWED_SYSCALLS": "1",
            "SOCKS5_PROXY": "socks5://p.example:1080",
            "HTTP_PROXY": "p.example:3128",
            "HTTPS_PROXY": "http://user:word@p.example:3128",
        },
    )
    assert config == Config(
        app=App(port=80, debug=False, key="secret"),
        max_workers=9,
        max_requests=99,
        worker_timeout=2.5,
        python_path="/usr/bin/python3",
        python_lib_path=("/usr/lib/a", "/usr/lib/b"),
        system_lib_requirements=("/etc/hosts",),
        python_pip_mirror_url="http://localhost:3141/simple",
        nodejs_path="/opt/node",
        enable_network=False,
        enable_preload=True,
        allowed_syscalls=(1,),
        proxy=Proxies(
            socks5="socks5://p.example:1080", http="p.example:3128", https="http://user:word@p.example:3128"
        ),
    ).model_copy(update={"python_deps_update_interval": 5400.0})


def test_empty_variable_is_not_set(load: Load) -> None:
    """A variable that holds nothing or blanks overrides nothing."""
    assert load(DIFY, dict.fromkeys(ENVIRONMENT, " ")) == load(DIFY)


def test_override_keeps_the_rest_of_its_section(load: Load) -> None:
    """Overriding one key of a section leaves the file's other keys of that section as they are."""
    assert load("app: {port: 81}", {"DEBUG": "0"})[0].app == App(port=81, debug=False)
    assert load("app:", {"DEBUG": "0"})[0].app == App(debug=False)


def test_effective_is_a_config_again(load: Load) -> None:
    """What show-config prints is plain JSON data that loads to the same config."""
    config, _ = load(
        "limits: {memory: 1GiB}\npython_deps_update_interval: 90.5s\njail: {env: {A: b}}\n"
        "allowed_syscalls: [1, read]\npython_lib_path: [/usr/lib/a]\n"
        "syscalls: {allow: [tee, {ioctl: {when: [request == 7]}}], deny: [{mbind: {when: [mode == 1]}}]}\n"
    )
    plain = effective(config)
    assert plain["limits"]["memory"] == 1073741824
    assert plain["jail"]["uid_range"] == [10000, 50000]
    assert load(json.dumps(plain))[0] == config


def test_effective_has_every_kind_of_dependencies(load: Load) -> None:
    """A list, and the path of a file; without a warning, which would be an error here."""
    for text, plain in (("[numpy, pandas>=2]", ["numpy", "pandas>=2"]), ("needs.txt", "needs.txt")):
        config, _ = load(f"dependencies: {text}\n")
        assert effective(config)["dependencies"] == plain


def test_effective_hides_secrets(load: Load) -> None:
    """show-config shows that there is a key and a password, not which."""
    config, _ = load(
        "app: {key: s3cret}\nproxy: {http: 'http://u:s3cret@p.example:1', https: 's3cret@p.example:1'}\n"
        "python_pip_mirror_url: https://token:s3cret@m.example/simple\nbase_mirror: http://u:s3cret@m.example/\n"
    )
    plain = effective(config)
    assert "s3cret" not in json.dumps(plain)
    assert plain["app"]["key"] == "***"
    assert plain["proxy"]["http"] == "http://***@p.example:1"
    assert "s3cret" not in repr(config)
