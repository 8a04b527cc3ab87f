"""The one reader of config.yaml and its environment overrides: a Config, or every problem at once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from builder.bases import suite_problem
from builder.config_model import (
    OPTIONAL_SYSTEM_PATHS,
    App,
    Config,
    Image,
    Jail,
    Limits,
    Network,
    Proxies,
    Section,
    Syscalls,
    keys_of,
    network_problems,
    section_of,
)
from builder.config_values import Base, parse_base, shown
from builder.config_yaml import UNREAD, Location, dotted, read_document
from builder.errors import ConfigError
from builder.seccomp.policy import policy_problems
from builder.seccomp.request import Request, read_request, request_repeats

__all__ = [
    "ENVIRONMENT",
    "OPTIONAL_SYSTEM_PATHS",
    "App",
    "Base",
    "Config",
    "Image",
    "Jail",
    "Limits",
    "Network",
    "Proxies",
    "Syscalls",
    "effective",
    "key_names",
    "load_config",
    "parse_base",
    "schema",
]

P = TypeVar("P")


def load_config(path: Path, environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The config at `path` with the overrides of `environ`, and warnings; ConfigError with every problem."""
    document = read_document(path)
    overrides, variables = _overrides(environ)

    in_file = [*_wrong(document.data)]
    in_variables = [*_wrong(overrides)]
    request, refused = _refused(document.data, overrides)
    for problem in refused:
        given = any(problem[0][:length] in variables for length in range(1, len(problem[0]) + 1))
        (in_variables if given else in_file).append(problem)
    found = [(line, f"{path}:{line}: {message}", hint) for line, message, hint in document.problems]
    for location, what, hint in in_file:
        line = _nearest(document.lines, location)
        found.append((line, f"{path}:{line}: {dotted(location)}: {what}", hint))
    found.sort(key=lambda problem: problem[0])
    problems: list[tuple[str, str | None]] = [(message, hint) for _, message, hint in found]
    problems += [(f"{_nearest(variables, where)}: {what}", hint) for where, what, hint in in_variables]
    if problems:
        raise ConfigError(problems)

    warnings = []
    for location, what in request_repeats(request):
        where = variables.get(location) or f"{path}:{_nearest(document.lines, location)}: {dotted(location)}"
        warnings.append(f"{where}: {what}")
    return Config.model_validate(_merged(document.data, overrides)), warnings


def schema() -> dict[str, Any]:
    """The JSON schema of config.yaml, for editors."""
    result = Config.model_json_schema()
    for section in (result, *result["$defs"].values()):
        section["properties"] = {key: _nullable(value) for key, value in section["properties"].items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def effective(config: Config) -> dict[str, Any]:
    """Every key with the value that it came to, as plain data; app.key and passwords in URLs show as ***."""
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    if config.app.key:
        plain["app"]["key"] = "***"
    for section, key in (
        (plain, "base_mirror"),
        (plain, "base_snapshot"),
        (plain, "python_pip_mirror_url"),
        *((plain["proxy"], key) for key in plain["proxy"]),
    ):
        if section[key]:
            section[key] = re.sub(r"^([a-z0-9]+://)?.*@", r"\1***@", section[key])
    return plain


def key_names() -> list[str]:
    """Every key that config.yaml can have, in the schema's order: base, image.tag, limits.memory."""
    return [dotted(location) for location in _keys(Config)]


def _keys(section: type[Section]) -> Iterator[Location]:
    for key, annotation in keys_of(section).items():
        inner = section_of(annotation)
        if inner is None:
            yield (key,)
        else:
            yield from ((key, *rest) for rest in _keys(inner))


# The environment


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _flag(text: str) -> object:
    """What Go's strconv.ParseBool takes, which dify-sandbox reads these with; else the text itself."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if text in ("0", "f", "F", "false", "FALSE", "False") else text


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _numbers(text: str) -> list[object]:
    return [int(item) if re.fullmatch(r"-?\d{1,9}", item) else item for item in _list(text)]


ENVIRONMENT: dict[str, tuple[Location, Callable[[str], object]]] = {
    "DEBUG": (("app", "debug"), _flag),
    "MAX_WORKERS": (("max_workers",), _number),
    "MAX_REQUESTS": (("max_requests",), _number),
    "SANDBOX_PORT": (("app", "port"), _number),
    "WORKER_TIMEOUT": (("worker_timeout",), _number),
    "API_KEY": (("app", "key"), str),
    "PYTHON_PATH": (("python_path",), str),
    "PYTHON_LIB_PATH": (("python_lib_path",), _list),
    "SYSTEM_LIB_REQUIREMENTS": (("system_lib_requirements",), _list),
    "PIP_MIRROR_URL": (("python_pip_mirror_url",), str),
    "PYTHON_DEPS_UPDATE_INTERVAL": (("python_deps_update_interval",), str),
    "NODEJS_PATH": (("nodejs_path",), str),
    "ENABLE_NETWORK": (("enable_network",), _flag),
    "ENABLE_PRELOAD": (("enable_preload",), _flag),
    "ALLOWED_SYSCALLS": (("allowed_syscalls",), _numbers),
    "SOCKS5_PROXY": (("proxy", "socks5"), str),
    "HTTP_PROXY": (("proxy", "http"), str),
    "HTTPS_PROXY": (("proxy", "https"), str),
}
"""dify-sandbox's variables: the key that each overrides, and how its text is read.

What cannot be read stays text, and the schema says what is wrong with it.
"""


def _overrides(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[Location, str]]:
    """The data that the environment gives, shaped like a config file, and the variable of each location."""
    data: dict[str, Any] = {}
    variables: dict[Location, str] = {}
    for variable, (location, read) in ENVIRONMENT.items():
        text = environ.get(variable, "").strip()
        if text:
            *sections, key = location
            target = data
            for section in sections:
                target = target.setdefault(str(section), {})
            # Bytes that are not UTF-8 arrive as lone surrogates (PEP 383): no key takes bytes.
            target[str(key)] = read(text) if _encodable(text) else os.fsencode(text)
            variables[location] = variable
    return data, variables


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _merged(data: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`data`, known to be valid, with `overrides` over it."""
    over = {
        key: {**(data.get(key) or {}), **value} if isinstance(value, dict) else value
        for key, value in overrides.items()
    }
    return {**data, **over}


# What is wrong, in words

_NEEDED = {
    "bool_type": "true or false is needed",
    "dict_type": "keys with values are needed",
    "float_type": "a number is needed",
    "int_from_float": "a whole number is needed",
    "int_type": "a whole number is needed",
    "model_type": "keys with values are needed",
    "string_type": "text is needed",
    "tuple_type": "a list is needed",
}
_RANGES = {
    "finite_number": "a finite number is needed",
    "greater_than": "more than {gt} is needed",
    "greater_than_equal": "at least {ge} is needed",
    "less_than_equal": "at most {le} is needed",
    "literal_error": "one of {expected} is needed",
}


Wrong = tuple[Location, str, str]
"""(location, what is wrong, hint)."""


def _wrong(data: dict[str, Any]) -> Iterator[Wrong]:
    """(location, what is wrong, hint) for everything in `data` that the schema refuses."""
    try:
        Config.model_validate(data)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            # Pydantic marks the key of a mapping, as opposed to its value, by one more part.
            location = tuple(part for part in details["loc"] if part != "[key]")
            if details["input"] is not UNREAD:
                yield (location, *_explained(details, location))


def _refused(data: dict[str, Any], overrides: dict[str, Any]) -> tuple[Request, list[Wrong]]:
    """What is asked of the policy, and the same for what it refuses, and for a base that is no suite.

    What has a wrong form is passed over: _wrong has said so.
    """
    asked: dict[str, Any] = {}
    for key in (
        "base",
        "base_packages",
        "syscalls",
        "enable_network",
        "network",
        "proxy",
        "allowed_syscalls",
        "allowed_syscalls_arch",
    ):
        with suppress(ValidationError):
            value = {key: overrides.get(key, data.get(key))}
            if isinstance(value[key], dict) and isinstance(data.get(key), dict):
                value[key] = data[key] | value[key]
            Config.model_validate(value)
            asked |= value
    config = Config.model_validate(asked)
    request, problems = read_request(
        config.syscalls,
        network=config.enable_network,
        listed=bool(config.network.allow),
        numbers=config.allowed_syscalls,
        numbers_arch=config.allowed_syscalls_arch,
    )
    refused = [(location, what, hint or "") for location, what, hint in problems or policy_problems(request)]
    base = parse_base(config.base)
    if base.kind == "debian" and "base" in asked and (problem := suite_problem(base.name)):
        refused.append((("base",), *problem))
    if base.kind != "debian" and config.base_packages and "base" in asked:
        what = f"Debian packages cannot be put into {base.name}"
        hint = "install them in the base itself, or use base: debian:trixie"
        refused.append((("base_packages",), what, hint))
    return request, [*refused, *network_problems(config, asked)]


def _explained(details: ErrorDetails, location: Location) -> tuple[str, str]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "config":
        return context["what"], context["hint"]
    if kind == "extra_forbidden":
        return "there is no such key", _meant(location)
    described = _described(value, secret=location[0] == "proxy" or location[-1] == "key")
    if kind in _RANGES:
        bounds = {
            key: f"{bound:.0f}" if isinstance(bound, float) else bound for key, bound in context.items()
        }
        return f"{_RANGES[kind].format(**bounds)}, not {described}", _description(location)
    hint = _description(location)
    if kind == "string_type" and isinstance(value, bool | int | float):
        hint = "put it in quotes to make it text"
    elif kind in ("int_type", "float_type") and not isinstance(_number(str(value)), str):
        hint = f"take the quotes off. {hint}" if isinstance(value, str) else hint
    return f"{_NEEDED.get(kind, details['msg'])}, not {described}", hint


def _described(value: object, *, secret: bool) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bytes):
        return "bytes that are not UTF-8"
    noun = "the text" if isinstance(value, str) else "the number"
    return noun if secret else f"{noun} {shown(value)}"


def _description(location: Location) -> str:
    """What the schema says about the innermost known key of `location`."""
    section: type[Section] | None = Config
    text = ""
    for part in location:
        if section is None:
            break
        for name, field in section.model_fields.items():
            if part == (field.alias or name):
                text, section = field.description or "", section_of(field.annotation)
                break
    return text


def _meant(location: Location) -> str:
    """A hint for a key that does not exist: the one that was probably meant, and all that stand there."""
    *sections, key = location
    section: type[Section] = Config
    for part in sections:
        section = section_of(keys_of(section)[str(part)]) or Config
    here = list(keys_of(section))
    word = str(key).lower()
    close = difflib.get_close_matches(word, here, n=1)
    if not close:  # a good key in the wrong place
        elsewhere = {str(known[-1]): dotted(known) for known in _keys(Config)}
        close = [elsewhere[name] for name in difflib.get_close_matches(word, elsewhere, n=1, cutoff=0.8)]
    question = f"did you mean {close[0]}? " if close else ""
    return f"{question}Allowed {f'in {dotted(tuple(sections))}' if sections else 'here'}: {', '.join(here)}"


def _nearest(places: Mapping[Location, P], location: Location) -> P:
    """The place of `location`, or of the innermost thing around it that has one."""
    while location not in places:
        location = location[:-1]
    return places[location]


def _nullable(value: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key that may stand without a value."""
    about = {name: part for name, part in value.items() if name in ("title", "description", "default")}
    kind = {name: part for name, part in value.items() if name not in about}
    choices = kind["anyOf"] if list(kind) == ["anyOf"] else [kind]
    return {**about, "anyOf": choices if {"type": "null"} in choices else [*choices, {"type": "null"}]}
