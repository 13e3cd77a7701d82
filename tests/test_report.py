"""The HTML report of `bench`, in a real headless browser."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from conftest import Render
from rendering import PATTERNS, command

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

SCHEMES = ("light", "dark")
#: The color of each text and of what is behind it; a chart's background is the page's.
TEXTS = """() => {
    const paper = getComputedStyle(document.body).backgroundColor;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        if (!text || parent.closest("style, defs") || !parent.getClientRects().length) continue;
        const style = getComputedStyle(parent), svg = parent instanceof SVGElement;
        found.push([text, svg ? style.fill : style.color, paper, parseFloat(style.fontSize)
            * (svg ? parent.getScreenCTM().a : 1)]);
    }
    return found;
}"""
CHARTS = """() => [...document.querySelectorAll("svg.chart")].map(svg => {
    const frame = svg.getBoundingClientRect();
    const text = selector => [...svg.querySelectorAll(selector)].map(one => one.textContent.trim());
    const inside = one => {
        const box = one.getBoundingClientRect();
        return box.left >= frame.left && box.right <= frame.right + 0.5
            && box.top >= frame.top && box.bottom <= frame.bottom + 0.5;
    };
    const bars = [...svg.querySelectorAll(".bar rect")].map(bar => {
        const box = bar.getBoundingClientRect();
        return [box.width, box.height, getComputedStyle(bar).fill];
    });
    return {bars, labels: text(".axis text"), values: text("text.value"), legends: text(".legend"),
        outside: [...svg.querySelectorAll(".bar rect, text")].filter(one => !inside(one))
            .map(one => one.textContent || "a bar")};
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = browser.find()
    if path is None:
        pytest.skip("no browser: put chromium on PATH, or run python tests/browser.py FOLDER")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"], env=browser.environment(path)
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(rendered: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of all patterns with an earlier run, one of a workload."""
    project, folder = rendered(patterns=list(PATTERNS)), tmp_path_factory.mktemp("reports")
    bench = (sys.executable, "-m", "my_service", "bench", "--quick", "--rounds", 2)
    found = {name: folder / f"{name}.html" for name in ("ways", "workload")}
    source = str(project / "src")
    earlier = folder / "earlier.json"
    command(*bench, "--workers", 1, "--json", earlier, PYTHONPATH=source)
    against = ("--against", with_doubts(earlier))
    command(*bench, "--workers", 4, "--html", found["ways"], *against, PYTHONPATH=source)
    command(*bench, "--keys", 100, "--workers", 2, "--html", found["workload"], PYTHONPATH=source)
    return found


def with_doubts(earlier: Path) -> Path:
    """Make a run so noisy that nothing can be slower than it: this machine may be busy."""
    run = json.loads(earlier.read_text("utf-8"))
    for group in run["groups"]:
        for timing in group["timings"]:
            if timing["role"] == "ours":
                timing["seconds"] = [1e-9, 1e9]
    earlier.write_text(json.dumps(run), "utf-8")
    return earlier


def luminance(color: str) -> float:
    """Return the relative luminance of a computed color, as WCAG defines it."""
    channels = [int(part) / 255 for part in re.findall(r"[\d.]+", color)[:3]]
    assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", color), color
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(color: str, other: str) -> float:
    darker, lighter = sorted((luminance(color), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["ways", "workload"])
def page(
    request: pytest.FixtureRequest, chromium: Any, reports: dict[str, Path], scheme: str
) -> Iterator[Any]:
    """A report on a phone, which asked for nothing and complained of nothing."""
    shown = chromium.new_page(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, device_scale_factor=2
    )
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    address = reports[request.param].as_uri()
    shown.goto(address)
    yield shown
    shown.close()
    assert said == []
    assert [url for url in asked if url != address and not url.startswith("data:")] == []


def test_it_fits_on_a_phone(page: Any) -> None:
    for width in (320, 360, 1280):
        page.set_viewport_size({"width": width, "height": 740})
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen == width
    assert page.evaluate("document.documentElement.lang") == "en"


def test_its_texts_can_be_read(page: Any, scheme: str) -> None:
    texts = page.evaluate(TEXTS)
    assert len(texts) > 20
    assert [text for text, color, paper, _ in texts if contrast(color, paper) < 4.5] == []
    assert [(text, size) for text, _, _, size in texts if size < 10.5] == []
    dark = luminance(texts[0][2]) < 0.2
    assert dark == (scheme == "dark")


def test_each_chart_has_its_bars_and_labels(page: Any) -> None:
    charts = page.evaluate(CHARTS)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(charts) == page.evaluate("document.querySelectorAll('section svg').length") > 0
    for chart in charts:
        assert len(chart["bars"]) == len(chart["values"]) >= len(chart["labels"]) * 2 > 0
        assert len(chart["legends"]) * len(chart["labels"]) == len(chart["bars"])
        assert all(width >= 1 and height >= 5 for width, height, _ in chart["bars"])
        assert all(contrast(color, paper) >= 3 for _, _, color in chart["bars"])
        assert all(re.fullmatch(r"[\d.,]+ (ns|µs|ms|s)", value) for value in chart["values"])
        assert all([*chart["labels"], *chart["legends"]])
        assert chart["outside"] == []


def test_each_pattern_has_a_chart(chromium: Any, reports: dict[str, Path]) -> None:
    page = chromium.new_page()
    page.goto(reports["ways"].as_uri())
    titles = page.evaluate("[...document.querySelectorAll('section h2')].map(h => h.textContent)")
    assert titles == [*PATTERNS, "Since the earlier run"]
    assert page.evaluate("document.querySelectorAll('section svg').length") == len(PATTERNS)
    page.goto(reports["workload"].as_uri())
    advice = page.evaluate("document.querySelector('.advice').textContent")
    assert re.match("Use |Don't use processes for this: ", advice)
    page.close()
