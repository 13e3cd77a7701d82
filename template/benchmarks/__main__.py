"""Measure everything here that is called bench_*.py."""

import argparse
import importlib
import json
import pkgutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .timing import Way, measure


def show(title: str, ways: list[Way]) -> Table:
    """Return the table; the first way is ours, and the others are compared with it."""
    table = Table("", title=title, title_justify="left", title_style="bold")
    table.add_column("µs", justify="right")
    table.add_column("times ours", justify="right")
    for way in ways:
        table.add_row(way.name, f"{way.median * 1e6:,.2f}", f"{way.median / ways[0].median:.2f}")
    return table


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds there too")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds has to be above 0")
    console = Console()
    found: dict[str, dict[str, list[float]]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("bench_"):
            bench = importlib.import_module(f".{module.name}", __package__)
            with bench.ways() as ways:
                measure(ways, options.rounds)
            console.print(show(bench.__doc__ or "", ways), "")
            found[module.name.removeprefix("bench_")] = {way.name: way.seconds for way in ways}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
