"""What was measured, as one HTML file that needs nothing else: no script, no font, no network."""

import importlib
import sys
from html import escape
from typing import Any
from xml.etree import ElementTree as ET

from .. import cli
from ..files import InputError
from .against import Change
from .record import Record
from .sheets import Bars, Sheet, sheets
from .units import show_seconds, show_size

COLORS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #595f69; --line: #d4d7dc;
  --ours-0: #0b63c5; --ours-1: #0a7d5f; --copied-0: #c2410c; --floor-0: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8eaed; --faint: #a8aeb8; --line: #3a3f47;
    --ours-0: #6aaeff; --ours-1: #3fc79f; --copied-0: #fb923c; --floor-0: #9ca3af; } }
"""

STYLE = (
    COLORS
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-bottom: .2rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); font-size: .875rem; }
.advice { border-left: 4px solid var(--ours-0); padding: .3rem 0 .3rem .8rem; font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: .8rem 0; overflow-wrap: normal; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
svg.chart { display: block; width: 100%; max-width: 34rem; height: auto; }
svg.chart text.value { text-anchor: start; }
"""
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

SVG = "http://www.w3.org/2000/svg"
WIDTH = 400
"""Of a chart, in pixels: about what a phone has, so that its letters stay readable there."""


def check() -> None:
    """Raise `InputError` now, if the library that draws the charts is missing."""
    try:
        importlib.import_module("pygal")
    except ImportError:
        say = f"--html draws with pygal: pip install '{cli.COMMAND}[bench]'"
        raise InputError(say) from None
    # It leaves a hook of Python 2 behind, of which each import from then on would warn.
    sys.meta_path[:] = [hook for hook in sys.meta_path if hasattr(hook, "find_spec")]


def page(record: Record, changes: list[Change]) -> str:
    """Return the report."""
    title = f"{cli.COMMAND}: what sharing costs"
    parts = [f'<p class="advice">{escape(record.advice)}</p>'] if record.advice else []
    parts += [_facts(record), *map(_section, sheets(record, changes))]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def _facts(record: Record) -> str:
    named = {**record.facts, **(record.shape or {})}
    if record.shape is not None:
        named["payload"] = show_size(record.shape["payload"])
        named["item_cost"] = show_seconds(record.shape["item_cost"])
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items() if value)
    return f'<p class="faint">{escape(text)}</p>'


def _section(sheet: Sheet) -> str:
    head = f"<h2>{escape(sheet.title)}</h2><p>{escape(sheet.text)}</p>"
    scale = " The scale is logarithmic." if _far(sheet) else ""
    note = f'<p class="faint">Less is better.{scale}</p>'
    drawn = _chart(sheet) + note if sheet.labels else ""
    return f"<section>{head}{drawn}{_table(sheet)}</section>"


def _table(sheet: Sheet) -> str:
    def row(cells: list[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    rows = "".join(row(cells, "td") for cells in sheet.rows)
    # A table that is wider than a phone scrolls by itself, also by keys.
    return f'<div class="wide" tabindex="0"><table>{row(sheet.head, "th")}{rows}</table></div>'


def _far(sheet: Sheet) -> bool:
    """Say whether the numbers are too far apart to be drawn as they are."""
    seconds = [second for bars in sheet.bars for second in bars.seconds]
    return bool(seconds) and max(seconds) > 20 * min(seconds)


def _colors(bars: list[Bars]) -> list[str]:
    """Return a color a way: ours differ from what is copied, and both from the floor."""
    ours = [one.name for one in bars if one.role == "ours"]
    numbers = [ours.index(one.name) % 2 if one.role == "ours" else 0 for one in bars]
    return [f"var(--{one.role}-{n})" for one, n in zip(bars, numbers, strict=True)]


def _chart(sheet: Sheet) -> str:
    """Return the bars of a sheet as an SVG element."""
    import pygal

    colors = _colors(sheet.bars)
    seconds = [second for bars in sheet.bars for second in bars.seconds]
    least, most = min(seconds), max(seconds)
    # Room for the shortest bar on the left, and for the longest one's number on the right.
    start, end = (least / 2, most * (2 * most / least) ** 0.4) if _far(sheet) else (0, 1.4 * most)
    chart = pygal.HorizontalBar(
        style=style(colors),
        width=WIDTH,
        height=30 + 24 * len(seconds) + 8 * len(sheet.labels) + 22 * len(colors),
        logarithmic=_far(sheet),
        range=(start, end),
        zero=start,
        print_values=True,
        print_values_position="top",
        value_formatter=show_seconds,
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        show_x_labels=False,
        show_x_guides=False,
        js=(),
        margin=4,
    )
    chart.x_labels = sheet.labels[::-1]  # the first on top
    for bars in sheet.bars:
        chart.add(bars.name, bars.seconds[::-1])
    return plain(chart.render(is_unicode=True), f"{sheet.title}: {sheet.text}")


def style(colors: list[str]) -> Any:
    """Return how charts look: letters in the page's colors, bars in these."""
    from pygal.style import Style

    return Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--ink)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--line)",
        colors=colors,
        value_colors=["var(--ink)"] * len(colors),
        font_family="inherit",
        label_font_size=13,
        value_font_size=13,
        legend_font_size=14,
        opacity=1,
        transition="none",
    )


def plain(chart: str, label: str) -> str:
    """Return the chart as a part of the page, without what is there for scripts."""
    ET.register_namespace("", SVG)
    svg = ET.fromstring(chart)
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}script", f"{{{SVG}}}title", f"{{{SVG}}}desc"}:
                parent.remove(child)
    svg.attrib |= {"class": "chart", "role": "img", "aria-label": label}
    return ET.tostring(svg, encoding="unicode")
