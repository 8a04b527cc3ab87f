"""What uv is given of the user's settings, and what becomes of what it says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.packages.index import Sources, to_toml
from builder.packages.uv_errors import Question, translated
from builder.transfer import without_passwords

MIRROR = "https://user:s%40cret@host/simple"


def test_a_mirror_takes_the_place_of_everything(tmp_path: Path) -> None:
    """Its URL is in the environment alone: not on the command line, not in what is shown."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text('index-url = "https://other/"')
    environ = {"UV_INDEX": "https://more/", "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/bin"}
    sources = Sources(url=MIRROR, environ=environ)
    assert sources.settings == {}
    assert sources.options == ()
    assert sources.environment["UV_DEFAULT_INDEX"] == MIRROR
    assert "UV_INDEX" not in sources.environment
    assert "cret" not in repr(sources)


def test_the_users_own_index_settings_count_and_nothing_else(tmp_path: Path) -> None:
    """A setting that would change what is resolved or how it is installed does not reach uv."""
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text(
        'index-url = "https://a/"\nprerelease = "allow"\nconstraint-dependencies = ["x<1"]\n'
        '[pip]\nextra-index-url = ["https://b/"]\nonly-binary = []\nno-deps = true\n'
        '[[index]]\nname = "c"\nurl = "https://c/"\n'
    )
    kept = {
        "UV_INDEX_C_USERNAME": "me",
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/c",
        "UV_CACHE_DIR": "/u",
    }
    dropped = {
        "UV_NO_VERIFY_HASHES": "1",
        "UV_OVERRIDE": "/o",
        "UV_TARGET": "/t",
        "PYTHONPATH": "/p",
        "VIRTUAL_ENV": "/v",
    }
    environ = {"XDG_CONFIG_HOME": str(tmp_path), **kept, **dropped}
    sources = Sources(environ=environ)
    assert sources.settings == {
        "index-url": "https://a/",
        "extra-index-url": ["https://b/"],
        "index": [{"name": "c", "url": "https://c/"}],
    }
    assert kept.items() <= sources.environment.items()
    assert not dropped.keys() & sources.environment.keys()
    assert sources.environment["UV_PYTHON_DOWNLOADS"] == "never"
    assert tomllib.loads(to_toml(sources.settings)) == sources.settings


def test_settings_that_are_no_toml_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("index-url = ")
    with pytest.raises(ConfigError, match=r"broken.toml"):
        _ = Sources(environ={"UV_CONFIG_FILE": str(tmp_path / "broken.toml")}).settings


def test_without_an_index_there_is_nothing_but_the_folder(tmp_path: Path) -> None:
    environ = {"UV_INDEX": "https://more/", "UV_CONFIG_FILE": "/gone"}
    sources = Sources(tmp_path, index=False, url=MIRROR, environ=environ)
    assert sources.options == ("--find-links", str(tmp_path), "--no-index", "--offline")
    assert not any("http" in value for value in sources.environment.values())
    assert sources.settings == {}


def test_passwords_go_to_their_own_place_alone() -> None:
    """Scheme, host and port decide."""
    sources = Sources(url=MIRROR, environ={})
    assert sources.credentials("https://host/files/a.whl") == ("user", "s@cret")
    assert sources.credentials("https://host:443/files/a.whl") == ("user", "s@cret")
    for url in (
        "http://host/a",
        "https://host:8443/a",
        "https://host.evil/a",
        "https://other/a",
        "https://[/",
    ):
        assert sources.credentials(url) is None
    named = {
        "UV_INDEX": "ours=https://h/simple",
        "UV_INDEX_OURS_USERNAME": "me",
        "UV_INDEX_OURS_PASSWORD": "pw",
    }
    assert Sources(environ=named | {"UV_NO_CONFIG": "1"}).credentials("https://h/f") == ("me", "pw")


def test_passwords_are_not_shown() -> None:
    assert without_passwords(f"at {MIRROR}, http://a@b/") == "at https://***@host/simple, http://***@b/"


@pytest.mark.parametrize(
    "value", [{"a": ["x", True, 3]}, {"quote": 'a"b\\c', "odd": "é\x7f\t", "in": [{"b": "c"}]}]
)
def test_toml_is_read_back(value: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(value)) == value


SAID = {
    "nope: the index has no such package (config.yaml:2)": """\
error: No solution found when resolving dependencies
  cause: Because nope was not found in the package registry and you require nope, we can conclude that your
         requirements are unsatisfiable.""",
    "numpy==99: no such version (r.txt:1)": """\
error: No solution found when resolving dependencies
  cause: Because there is no version of numpy==99 and you require numpy==99, we can conclude that your
         requirements are unsatisfiable.""",
    "jieba: there is no wheel, only source (r.txt:2)": """\
error: No solution found when resolving dependencies
  cause: Because all versions of jieba have no usable wheels and you require jieba, we can conclude that your
         requirements are unsatisfiable.

hint: Wheels are required for `jieba` because building from source is disabled for all packages""",
    "tensorflow-io==0.30.0: no wheel for Python 3.13 on arm64": """\
warning: The requested Python version 3.13 is not available; 3.11.7 will be used instead.
error: No solution found when resolving dependencies
  cause: Because tensorflow-io==0.30.0 has no wheels with a matching Python ABI tag (e.g., `cp313`) and you
         require tensorflow-io==0.30, we can conclude that your requirements are unsatisfiable.""",
    "the requirements contradict each other (Python 3.13, arm64)": """\
error: No solution found when resolving dependencies
  cause: Because pandas==2.3.3 depends on numpy>=1.26.0 and you require pandas==2.3.3, we can conclude that
         you require numpy>=1.26.0.
         And because you require numpy<1.20, we can conclude that your requirements are unsatisfiable.""",
    "the package index cannot be reached: Failed to fetch: http://h:9/simple/numpy/; Connection refused": """\
error: Request failed after 3 retries in 6.0s
  cause: Failed to fetch: http://h:9/simple/numpy/
  cause: error sending request for url (http://h:9/simple/numpy/)
  cause: tcp connect error
  cause: Connection refused (os error 111)""",
    "the package index wants a user and a password": """\
error: No solution found when resolving dependencies
  cause: Because a was not found in the package registry and you require a, we can conclude that your
         requirements are unsatisfiable.

hint: An index URL (http://h/simple) could not be queried due to a lack of valid authentication""",
    "the disk is full": "error: failed to write\n  cause: No space left on device (os error 28)",
    "uv may not write what it must": "error: cache\n  cause: Permission denied (os error 13)",
}


@pytest.mark.parametrize("message", SAID)
def test_what_uv_says_becomes_one_line_and_a_hint(message: str) -> None:
    """Uv's own words follow where they say more."""
    where = {"nope": "config.yaml:2", "numpy": "r.txt:1", "jieba": "r.txt:2"}
    error = translated(SAID[message].splitlines(), Question("3.13", "arm64", where, Sources(environ={})))
    assert error.message.splitlines()[0].startswith(message)
    assert "warning" not in error.message
    assert error.hint
    if "contradict" in message:
        assert "numpy<1.20" in error.message
    if message.startswith("jieba"):
        assert "from_source: {jieba: []}" in error.hint
