"""What was measured, as one HTML file that needs nothing else: no script, no font, no network."""

import importlib.util
from html import escape
from xml.etree import ElementTree as ET

from .. import cli
from ..files import InputError
from .against import Change
from .record import Group, Record
from .table import by_pattern, cell, verdict, workers
from .units import show_seconds, show_times

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #595f69; --line: #d4d7dc;
  --ours-0: #0b63c5; --ours-1: #0a7d5f; --copied-0: #c2410c; --floor-0: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8eaed; --faint: #a8aeb8; --line: #3a3f47;
    --ours-0: #6aaeff; --ours-1: #3fc79f; --copied-0: #fb923c; --floor-0: #9ca3af; } }
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
.key { display: inline-block; width: .7em; height: .7em; margin-right: .4em; }
svg.chart { display: block; width: 100%; max-width: 34rem; height: auto; }
svg.chart .guide.line { stroke: var(--line); }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
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
    if importlib.util.find_spec("pygal") is None:
        raise InputError(f"--html draws with pygal: pip install '{cli.COMMAND}[bench]'")


def page(record: Record, changes: list[Change]) -> str:
    """Return the report."""
    title = f"{cli.COMMAND}: what sharing costs"
    parts = [f'<p class="advice">{escape(record.advice)}</p>'] if record.advice else []
    parts += [_facts(record), *(_section(groups) for groups in by_pattern(record.groups))]
    if changes:
        parts.append(_comparison(changes))
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def _facts(record: Record) -> str:
    named = {**record.facts, **(record.shape or {})}
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items())
    return f'<p class="faint">{escape(text)}</p>'


def _section(groups: list[Group]) -> str:
    head = f"<h2>{escape(groups[0].pattern)}</h2><p>{escape(groups[0].title)}</p>"
    note = '<p class="faint">Less is better. The scale is logarithmic.</p>'
    return f"<section>{head}{chart(groups)}{note}{_table(groups)}</section>"


def _table(groups: list[Group]) -> str:
    head = "".join(f"<th>{workers(group)}<th>floor" for group in groups)
    rows = []
    for color, timings in zip(
        _colors(groups), zip(*(g.timings for g in groups), strict=True), strict=True
    ):
        cells = "".join(
            f"<td>{cell(timing)}<td>{show_times(timing.median / group.floor.median)}"
            for timing, group in zip(timings, groups, strict=True)
        )
        key = f'<span class="key" style="background: {color}"></span>'
        rows.append(f"<tr><td>{key}{escape(timings[0].name)}{cells}")
    return f'<div class="wide"><table><tr><th>{head}{"".join(rows)}</table></div>'


def _comparison(changes: list[Change]) -> str:
    rows = "".join(
        f"<tr><td>{escape(change.name)}<td>{change.workers}<td>{show_times(change.before)}"
        f"<td>{show_times(change.now)}<td>±{show_times(change.threshold)}<td>{verdict(change)}"
        for change in changes
    )
    head = "<tr><th><th>workers<th>before<th>now<th>noise<th>"
    return (
        "<section><h2>Since the earlier run</h2><p>Times the floor.</p>"
        f'<div class="wide"><table>{head}{rows}</table></div></section>'
    )


def _colors(groups: list[Group]) -> list[str]:
    """Return a color a way: ours differ from what is copied, and both from the floor."""
    seen: dict[str, int] = {}
    colors = []
    for timing in groups[0].timings:
        number = seen.setdefault(timing.role, 0)
        seen[timing.role] += 1
        colors.append(f"var(--{timing.role}-{number % 2 if timing.role == 'ours' else 0})")
    return colors


def chart(groups: list[Group]) -> str:
    """Return the bars of a pattern as an SVG element."""
    import pygal
    from pygal.style import Style

    colors = _colors(groups)
    style = Style(
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
    drawn = pygal.HorizontalBar(
        style=style,
        width=WIDTH,
        height=40 + sum(28 * len(group.timings) for group in groups) + 24 * len(colors),
        logarithmic=True,
        print_values=True,
        print_values_position="top",
        value_formatter=show_seconds,
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        show_x_labels=False,
        js=(),
        margin=4,
    )
    drawn.x_labels = [workers(group) for group in groups]
    for place, timing in enumerate(groups[0].timings):
        drawn.add(timing.name, [group.timings[place].median for group in groups])
    return _plain(drawn.render(is_unicode=True), f"{groups[0].pattern}: {groups[0].title}")


def _plain(chart: str, label: str) -> str:
    """Return the chart as a part of the page, without what is there for scripts."""
    ET.register_namespace("", SVG)
    svg = ET.fromstring(chart)
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}script", f"{{{SVG}}}title", f"{{{SVG}}}desc"}:
                parent.remove(child)
    svg.attrib |= {"class": "chart", "role": "img", "aria-label": label}
    return ET.tostring(svg, encoding="unicode")
