"""The size report as a page: it holds nothing foreign, and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builder.errors import BuildError, UsageError, printable
from builder.report import Report
from builder.report_page import render_page, report_json, write_report
from tests.reports import ORIGINS, hostile, raw

IMAGES = Path(__file__).parents[2] / "images" / "report"


@pytest.fixture
def report() -> Report:
    return Report(raw())


class Page(HTMLParser):
    """A page taken apart: tags with their attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.texts.append((*self.tags[-1], data))
        else:
            self.words += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.texts if name == tag]


@pytest.mark.parametrize("report", [Report(raw()), hostile()], ids=["plain", "hostile"])
def test_the_page_asks_for_nothing_and_no_text_becomes_part_of_it(report: Report) -> None:
    """The tags are ours alone, links stay on the page, no style or script names another place."""
    page = Page(render_page(report))
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "source", "use"}
        assert not {
            name for name in attributes if name.startswith("on") or name in ("src", "style", "action")
        }
        assert (attributes.get("href") or "#").startswith("#")
    [(_, style)] = page.of("style")
    assert not re.search(r"url\(|@import|@font-face|//", style.replace("/*", ""))


def test_the_policy_of_the_page_lets_only_its_own_scripts_run() -> None:
    """Each by its hash, and nothing else."""
    page = Page(render_page(hostile()))
    [policy] = [str(attrs["content"]) for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    hashes = {
        kind: {
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for attributes, text in page.of(kind)
            if "type" not in attributes
        }
        for kind in ("script", "style")
    }
    assert set(rules["script-src"].split()) == hashes["script"]
    assert set(rules["style-src"].split()) == hashes["style"]


def test_the_data_of_the_page_is_the_report() -> None:
    """Every file with its bytes and origin comes back out of the page, in readable spelling."""
    report = hostile()
    page = render_page(report)
    [(_, text)] = [one for one in Page(page).of("script") if one[0].get("type") == "application/json"]
    assert text.isascii()
    assert "<" not in text
    data = json.loads(text)
    found = {}
    for folder, entries in data["files"].items():
        for at in range(0, len(entries), 3):
            path = f"{folder.rstrip('/')}/{entries[at]}"
            found[path] = tuple(entries[at + 1 : at + 3])
    assert found == {printable(path): entry for path, entry in report.files.items()}
    assert [one["what"] for one in data["origins"]] == [printable(one.what) for one in report.origins]
    assert data["origins"][4]["alone"] == 7340
    assert data["origins"][3]["imports"] == ["_yaml", "yaml"]


def test_the_page_says_the_totals_and_what_was_proven() -> None:
    """Human units with exact bytes beside them."""
    page = Page(render_page(Report(raw(image="name:tag", proven=["4 imports work in the jail"]))))
    for words in ("name:tag", "debian:trixie", "amd64", "3.13", "16.2 kB", "16,234 bytes in 22 files"):
        assert words in page.words
    assert "4 imports work in the jail" in page.words


def test_what_a_change_sends_again() -> None:
    """Each layer's size, and for each locked package the layers that another version of it changes."""
    parts = [{"name": f"packages-{part}", "bytes": part * 1000} for part in range(1, 9)]
    layers = [{"name": "system", "bytes": 5000}, *parts, {"name": "config", "bytes": 10}]
    words = Page(render_page(Report(raw(layers=layers)))).words
    assert "system: 5.00 kB" in words
    again = re.findall(r"another version of (\w+) sends packages-(\d) and config again: (\d)\.01 kB", words)
    assert sorted(name for name, _, _ in again) == ["PyYAML", "joblib", "learn", "scipy"]
    assert all(part == size for _, part, size in again)
    assert "another version" not in render_page(Report(raw()))


def test_the_same_report_is_the_same_page(report: Report) -> None:
    """To the byte, as JSON too; the JSON is a report again, with sums."""
    assert render_page(report) == render_page(Report(raw()))
    again = json.loads(report_json(report))
    assert Report(again).files == report.files
    sums = {one["what"]: one for one in again["sums"]["origins"]}
    assert (sums["learn 1.7"]["bytes"], sums["learn 1.7"]["alone_bytes"]) == (40, 7340)
    assert sum(again["sums"]["kinds"].values()) == report.total.bytes


def test_a_page_of_thirty_thousand_files_is_small() -> None:
    """At most 3 MB."""
    files = {
        f"/packages/package_{folder}/inner": [
            [f"a_module_with_a_name_{n}.py", 4000 + n, 3, 5000 + n] for n in range(50)
        ]
        for folder in range(300)
    }
    assert len(render_page(Report(raw(files=files)))) < 3_000_000


def test_a_report_is_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    """By suffix; where it cannot be written, what was there stays and nothing is left behind."""
    write_report(report, tmp_path / "a.html")
    write_report(report, tmp_path / "a.JSON")
    assert (tmp_path / "a.html").read_text() == render_page(report)
    assert json.loads((tmp_path / "a.JSON").read_text())["base"] == "debian:trixie"
    with pytest.raises(UsageError, match="no such kind"):
        write_report(report, tmp_path / "a.pdf")
    (tmp_path / "b.html" / "kept").mkdir(parents=True)
    with pytest.raises(BuildError, match="not written") as failure:
        write_report(report, tmp_path / "b.html")
    assert failure.value.hint
    with pytest.raises(BuildError, match="not written"):
        write_report(report, tmp_path / "none" / "c.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.JSON", "a.html", "b.html"]


def test_colours_can_be_read() -> None:
    """Text on every colour of a kind, and on the page, has the contrast of WCAG 2 AA, by day and by night."""
    css = (IMAGES / "report.css").read_text()
    pairs = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", css))
    colours = {name: pair.split(", ") for name, pair in pairs.items()}
    kinds = {name for name in colours if name.startswith("k-")}
    assert {f"k-{one['kind']}" for one in ORIGINS} <= kinds
    for mode in (0, 1):
        for kind in kinds:
            assert contrast(colours["ink"][mode], colours[kind][mode]) >= 4.5, (kind, mode)
        # A small tile is mixed with this: further away from the text, not nearer to it.
        assert contrast(colours["ink"][mode], colours["pale"][mode]) >= 4.5
        for ground in ("page", "card"):
            for text in ("text", "soft", "link"):
                assert contrast(colours[text][mode], colours[ground][mode]) >= 4.5, (text, ground, mode)


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
