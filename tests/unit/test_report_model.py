"""The arithmetic of the size report's page, run as it stands by an engine without a document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quickjs

from builder.explain import human
from builder.report import Report
from builder.report_page import page_data
from tests.reports import raw

SCRIPT = Path(__file__).parents[2] / "images" / "report" / "model.js"


@pytest.fixture
def report() -> Report:
    return Report(raw())


@pytest.fixture
def script() -> quickjs.Context:
    """The page's model, in an engine without a document."""
    context = quickjs.Context()
    context.eval(SCRIPT.read_text())
    return context


@pytest.fixture
def ask(script: quickjs.Context, report: Report) -> Callable[[str], Any]:
    """Evaluates an expression about the small report: `data` and `root` are there."""
    script.eval(f"globalThis.data = {page_data(report)}; globalThis.root = buildTree(data);")
    return lambda expression: json.loads(script.eval(f"JSON.stringify({expression})"))


@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [6, 6, 4, 3, 2, 2, 1],
        [10**9, 1, 1, 1],
        [2 ** (30 - n) for n in range(30)],
        list(range(3000, 0, -1)),
        [5, 3, 0, 0],
        [0, 0, 0],
        [],
    ],
)
@pytest.mark.parametrize(("width", "height"), [(960, 640), (358, 520), (1000, 3), (0, 0)])
def test_areas_are_in_proportion_and_nothing_overlaps(
    script: quickjs.Context, sizes: list[int], width: int, height: int
) -> None:
    """Every rectangle lies inside, its area is its share, and together they cover all."""
    boxes = json.loads(script.eval(f"JSON.stringify(squarify({sizes}, 10, 20, {width}, {height}))"))
    assert len(boxes) == len(sizes)
    area, total = width * height, sum(sizes)
    for size, (x, y, wide, high) in zip(sizes, boxes, strict=True):
        share = size / total if total else 1 / len(sizes)
        assert wide * high == pytest.approx(share * area, abs=1e-6 * area + 1e-9)
        assert min(wide, high) >= 0
        # To a thousandth of a pixel: what is left of a side is a difference of large numbers.
        assert x >= 10 - 1e-3
        assert y >= 20 - 1e-3
        assert x + wide <= 10 + width + 1e-3
        assert y + high <= 20 + height + 1e-3
    if sizes:
        assert sum(wide * high for _, _, wide, high in boxes) == pytest.approx(area)
    by_x = sorted(boxes)
    for at, (x, y, wide, high) in enumerate(by_x[:200]):
        for ox, oy, owide, ohigh in by_x[at + 1 : 400]:
            across = min(x + wide, ox + owide) - max(x, ox)
            down = min(y + high, oy + ohigh) - max(y, oy)
            assert min(across, down) <= 1e-3


def test_tiles_are_nearly_square(script: quickjs.Context) -> None:
    """The example of the paper: no tile longer than four times its breadth."""
    boxes = json.loads(script.eval("JSON.stringify(squarify([6, 6, 4, 3, 2, 2, 1], 0, 0, 600, 400))"))
    assert max(max(wide / high, high / wide) for _, _, wide, high in boxes) < 4
    assert boxes[0] == pytest.approx([0, 0, 300, 200])


def test_every_level_of_the_map_adds_up(ask: Callable[[str], Any], report: Report) -> None:
    """From everything through kinds, origins and folders to files: sizes and counts are the report's."""
    walk = """(function walk(node) {
        const inside = node.children().map(walk);
        return [node.name, node.size, node.files, node.path || null, inside];
    })(root)"""
    name, size, files, _, kinds = ask(walk)
    assert (name, size, files) == ("Everything", report.total.bytes, report.total.files)
    assert {kind[0] for kind in kinds} == {
        "Locked packages",
        "Python",
        "Shared libraries",
        "Written by sandbox-build",
    }
    leaves: dict[str, int] = {}

    def add(node: list[Any]) -> None:
        _, size, files, path, inside = node
        if not inside:
            leaves[path] = size
            assert files == 1
        else:
            assert (size, files) == (sum(one[1] for one in inside), sum(one[2] for one in inside))
            assert [one[1] for one in inside] == sorted((one[1] for one in inside), reverse=True)
            for one in inside:
                add(one)

    add(["", size, files, None, kinds])
    assert leaves == {path: length for path, (length, _) in report.files.items()}


def test_places_have_addresses(ask: Callable[[str], Any], report: Report) -> None:
    """Every place is found again by its fragment, a file by its path too; nonsense leads as far as it can."""
    assert ask("""(function every(node) {
        return nodeAt(root, data, hashOf(node)) === node && node.children().every(every);
    })(root)""")
    for path in report.files:
        assert ask(f"nodeAt(root, data, '#' + encodeURI({json.dumps(path)})).path") == path
    assert ask("nodeAt(root, data, '#package/5/nonsense').name") == "scipy 1.16"
    for nonsense in ("#nonsense", "#/no/such", "#/%E0%A4%A", "#%E0%A4%A", "", "#", "#+/+"):
        assert ask(f"nodeAt(root, data, {json.dumps(nonsense)}).name") == "Everything"


def test_the_search_of_the_page(ask: Callable[[str], Any]) -> None:
    """Packages by either name first, then files; the end of a path; nothing for nothing."""

    def names(text: str) -> list[str]:
        return [match[1] for match in ask(f"search(data, {json.dumps(text)}, 12)")]

    assert names("YAML")[0] == "PyYAML 6.0"
    assert names("sklearn")[0] == "learn 1.7"
    assert names("passwd") == ["/etc/passwd", "passwd"]
    assert names("libgfortran") == ["libgfortran.so.5", "libgfortran.so.5.0.0"]
    assert names("linalg/_fb") == ["_fblas.so"]
    assert names(" ") == names("zzz") == []
    assert len(names("i")) == 12


@pytest.mark.parametrize(("count", "area"), [(5, 10_000), (500, 100_000), (5000, 100_000)])
def test_what_is_too_small_to_draw_stays_within_reach(script: quickjs.Context, count: int, area: int) -> None:
    """One tile stands for all of it; to enter that again and again ends."""
    script.eval(f"""
        globalThis.leaf = (size, n) => ({{ size, files: 1, name: `f${{n}}`, children: () => [] }});
        globalThis.leaves = Array.from({{ length: {count} }}, (_, n) => leaf({count} - n, n));
        globalThis.top = makeNode(null, "", "top", () => leaves);
        measure(top, top.children().map((child) => ["", child.size]));
    """)
    seen = 0
    for _ in range(count):
        tiles = json.loads(
            script.eval(f"JSON.stringify(drawn(top, {area}, 150).map((t) => [t.id || '', t.size, t.files]))")
        )
        assert sum(size for _, size, _ in tiles) == script.eval("top.size")
        seen += sum(one != "+" for one, _, _ in tiles)
        if not any(one == "+" for one, _, _ in tiles):
            break
        assert len(tiles) <= 1 + max(area / 150, count**0.5 + 1)
        script.eval("top = top.more")
    assert seen == count


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_414_464_571, "1.41 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_bytes_in_three_digits(length: int, text: str, script: quickjs.Context) -> None:
    """In Python and in the page alike."""
    assert human(length) == text
    assert script.eval(f"human({length})") == text
