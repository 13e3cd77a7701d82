"""What was measured, as docs/performance.md with its charts, and as JSON."""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from my_service.bench import report
from my_service.bench.record import spread
from my_service.bench.units import show_times
from my_service.sharing.engines.engine import available_cores

from .compare import Comparison, Target

PACKAGES = Path(__file__).with_name("requirements.txt")
WIDTH = 600
"""Of a chart, in pixels."""
LOOKS = f"""<style>{report.COLORS}
svg {{ background: var(--paper) !important; font: 14px system-ui, sans-serif; }}
text.value {{ text-anchor: start; }}
</style>"""
"""What a chart brings along, since it lies in no page."""
INTRODUCTION = """\
This page compares the template with what a user would pick instead, on the same work and in the
same run: `nox -s peers` measures all of it and writes the page. The ways of a table take turns. A
number is the median of the rounds, ± is half the distance between the quartiles, and a ratio is the
median of the ratios of the rounds. Each way is used as its own documentation advises, and its
result is checked: a way that fails, or that comes to a wrong result, is listed with the reason. In
the charts less is better; blue bars are ours, grey bars share nothing between processes, and
numbers that lie far apart stand on a logarithmic scale.

A target is a bound for one of these ratios: "A, as long as B" is the time of A divided by that of
B, and "A, as fast as B" the time of B divided by that of A."""
ROLES = {"ours": "ours", "copied": "", "floor": "shares nothing"}


@dataclass(frozen=True)
class Field:
    """A file of comparisons, what came of them, and what they had to reach."""

    module: ModuleType
    comparisons: list[Comparison]

    @classmethod
    def of(cls, module: ModuleType) -> Self:
        """A field that is not measured yet."""
        return cls(module, module.comparisons())

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.module.__name__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """What its file says of it."""
        return self.module.__doc__ or ""

    @property
    def targets(self) -> list[Target]:
        """What had to be reached, and what was."""
        found: list[Target] = self.module.targets({one.key: one for one in self.comparisons})
        return found

    @property
    def title(self) -> str:
        """The first line of its file: 'Counters: a number that …'."""
        return self.doc.partition("\n")[0]


def versions() -> dict[str, str]:
    """The versions of everything that was measured; "" for what isn't installed."""
    names = [line.split(">")[0].split("[")[0] for line in PACKAGES.read_text().splitlines()]
    found = {}
    for name in ["numpy", "copier", *names]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def facts() -> dict[str, Any]:
    """What one has to know of the run beside its numbers."""
    return {
        "python": platform.python_version(),
        "cores": available_cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def plain(fields: list[Field]) -> dict[str, Any]:
    """All numbers, for machines."""
    return {
        "facts": facts(),
        "versions": versions(),
        "fields": {
            field.name: {
                "comparisons": [
                    {
                        "key": one.key,
                        "title": one.title,
                        "workers": one.workers,
                        "ways": [
                            {"name": way.name, "role": way.role, "seconds": way.seconds}
                            for way in one.ways
                        ],
                        "failed": one.failed,
                    }
                    for one in field.comparisons
                ],
                "targets": [
                    {"text": one.text, "bound": one.bound, "found": one.found, "met": one.met}
                    for one in field.targets
                ],
            }
            for field in fields
        },
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, its first column to the left."""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def table_of(comparison: Comparison) -> str:
    """A row a way, the fastest first, and one for each that failed."""
    ours = next((way for way in comparison.ways if way.role == "ours"), None)
    failed = dict(comparison.failed)
    rows = []
    for way in sorted(comparison.ways, key=lambda way: way.median):
        name = f"**{way.name}**" if way.role == "ours" else way.name
        part = spread(way.seconds) / 2 / way.median if way.median else 0
        times = show_times(comparison.ratio(way.name, ours.name)) if ours else ""
        shown = f"{comparison.show(way.median)} ±{part:.0%}"
        rows.append([name, shown, times, failed.pop(way.name, ROLES[way.role])])
    rows += [[name, "–", "–", why] for name, why in failed.items()]
    return table(["", "median", "of ours", ""], rows)


def table_of_targets(fields: list[Field]) -> str:
    """A row a target, with what was found."""
    rows = []
    for field in fields:
        for one in field.targets:
            found = "–" if one.found is None else one.show(one.found)
            met = {True: "met", False: "**not met**", None: "not measured"}[one.met]
            bound = f"{'at least' if one.least else 'at most'} {one.show(one.bound)}"
            note = f". {one.note}" if one.note and not one.met else ""
            rows.append([one.text, bound, found, f"{met}{note}"])
    return table(["target", "bound", "found", ""], rows)


def text(fields: list[Field], charts: dict[str, str] | None = None) -> str:
    """The page."""
    known = facts()
    where = f"Python {known['python']}, {known['platform']}, {known['cores']} cores"
    measured_with = ", ".join(f"{name} {found}" for name, found in versions().items() if found)
    parts = [
        "# Performance",
        INTRODUCTION,
        f"{where}, 2 workers, {known['date']}; {measured_with}.",
        "## Targets",
        table_of_targets(fields),
    ]
    for field in fields:
        parts.append(f"## {field.title.rstrip('.')}")
        body = field.doc.partition("\n")[2].strip()
        if body:
            parts.append(" ".join(body.split()))
        for comparison in field.comparisons:
            parts.append(f"### {comparison.title}")
            if charts and comparison.key in charts:
                parts.append(f"![{comparison.title}]({charts[comparison.key]})")
            parts.append(table_of(comparison))
    return "\n\n".join(parts) + "\n"


def write(path: Path, fields: list[Field]) -> None:
    """Write the page, and its charts beside it."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    charts = {}
    for field in fields:
        for one in field.comparisons:
            if one.ways:
                picture = folder / f"{one.key.replace(' ', '-')}.svg"
                picture.write_text(chart(one), "utf-8")
                charts[one.key] = f"{folder.name}/{picture.name}"
    path.write_text(text(fields, charts), "utf-8")


def chart(comparison: Comparison) -> str:
    """The bars of a comparison as an SVG image, for light and dark paper, the fastest on top."""
    import pygal

    ways = sorted(comparison.ways, key=lambda way: way.median)
    numbers = [way.median for way in ways]
    least, most = min(numbers), max(numbers)
    far = most > 20 * least
    start = least / 2 if far else 0
    drawn = pygal.HorizontalBar(
        style=report.style([f"var(--{ways[0].role}-0)"]),
        width=WIDTH,
        height=20 + 26 * len(ways),
        logarithmic=far,
        # Room for the longest one's number on the right.
        range=(start, most * (2 * most / least) ** 0.25 if far else 1.25 * most),
        zero=start,
        print_values=True,
        print_values_position="top",
        value_formatter=comparison.show,
        show_legend=False,
        show_x_labels=False,
        show_x_guides=False,
        js=(),
        margin=4,
    )
    drawn.x_labels = [way.name for way in ways][::-1]
    bars = [{"value": way.median, "color": f"var(--{way.role}-0)"} for way in ways]
    drawn.add("", bars[::-1])
    image = report.plain(drawn.render(is_unicode=True), comparison.title)
    return str(image).replace(">", f">{LOOKS}", 1)
