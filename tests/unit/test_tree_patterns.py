"""The patterns of tree.yaml."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest
import yaml

from builder.tree.patterns import Patterns
from builder.tree.spec import RULE_LISTS, Rule, TreeSpec, parse_rules

PLACES = {"stdlib": ["/usr/lib/python3.13"], "site": ["/a+b/site-packages", "/c"]}


@pytest.mark.parametrize(
    ("pattern", "jail_path", "about_it"),
    [
        ("/etc/x", "/etc/x", True),
        ("/etc/x", "/etc/x/y", False),
        ("/etc/x", "/etc/xy", False),
        ("**/*.a", "/usr/lib/libz.a", True),
        ("**/*.a", "/libz.a", True),
        ("**/*.a", "/usr/lib/x.a/y", False),
        ("{stdlib}/*/test", "/usr/lib/python3.13/sqlite3/test", True),
        ("{stdlib}/*/test", "/usr/lib/python3.13/a/b/test", False),
        ("{stdlib}/*/test", "/usr/lib/python3x13/a/test", False),
        ("{site}/pip-*", "/a+b/site-packages/pip-24.dist-info", True),
        ("{site}/pip-*", "/c/pip-24.dist-info", True),
        ("{site}/pip-*", "/d/pip-24.dist-info", False),
        ("/x/[!_p]*", "/x/reader.py", True),
        ("/x/[!_p]*", "/x/pager.py", False),
        ("/x/[!_p]*", "/x/", False),
        ("/x/[!_p]*", "/x//", False),
        ("**/*.h", "/x/two\nlines.h", True),
        ("{site}/**/tests", "/c/tests", True),
        ("{site}/**/tests", "/c/a/b/tests", True),
        ("{site}/**/tests", "/c/a/mytests", False),
        ("{site}/**/tests", "/c/a/tests/x.py", False),
        ("{site}/**/tests", "/d/a/tests", False),
        ("/a/**/b/**/c", "/a/x/b/y/z/c", True),
        ("/a/**/b/**/c", "/a/b/c", True),
        ("/a/**/b/**/c", "/ab/c", False),
        ("/x/*.{c,pyx}", "/x/y.pyx", True),
        ("/x/*.{c,pyx}", "/x/y.py", False),
        ("/x/*.{c,pyx}", "/x/y.cc", False),
    ],
)
def test_a_pattern_is_about_whole_paths(pattern: str, jail_path: str, about_it: bool) -> None:
    """A star stays within one name, **/ is any folder, and letters that mean something to re mean nothing."""
    assert Patterns([pattern], PLACES).match(jail_path) is about_it


def test_a_place_that_a_base_does_not_have_matches_nothing() -> None:
    """{site} of a base without packages is not the root."""
    assert not Patterns(["{site}/pip"], {"site": []}).match("/pip")
    assert not Patterns([], PLACES).match("")


def test_a_folder_that_is_left_out_takes_all_below_it_along() -> None:
    """match_above is about the path or any folder that holds it."""
    patterns = Patterns(["{stdlib}/test"], PLACES)
    assert patterns.match_above("/usr/lib/python3.13/test/support/x.py")
    assert not patterns.match_above("/usr/lib/python3.13/tests")


def test_every_rule_of_the_shipped_file_has_its_own_reason_and_can_be_read() -> None:
    """images/python/tree.yaml parses into rules, each with a reason, none twice, and survives spec.json."""
    text = resources.files("images").joinpath("python", "tree.yaml").read_text()
    rules = parse_rules(yaml.safe_load(text))
    assert set(rules) == set(RULE_LISTS)
    for name, listed in rules.items():
        assert listed, name
        assert all(rule.reason for rule in listed)
        assert len({rule.match for rule in listed}) == len(listed)
    Patterns([rule.match for rule in (*rules["prune"], *rules["sourceless"])], PLACES)
    spec = replace(TreeSpec("amd64", "b", "/p", ("/x",), optional_paths=("/y",)), **rules)
    assert TreeSpec.from_json(spec.to_json()) == spec


def test_a_rule_with_an_unknown_key_is_not_read() -> None:
    """A typing error in tree.yaml does not pass for a rule."""
    with pytest.raises(TypeError):
        parse_rules({name: [{"match": "/x", "reason": "r", "optionnal": True}] for name in RULE_LISTS})
    assert parse_rules({name: [] for name in RULE_LISTS})["prune"] == ()
    assert Rule("/x", "r").optional is False
