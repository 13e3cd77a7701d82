"""Measure all fields and write what came of it: `nox -s peers`."""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from my_service.bench.timing import Setting, Way

from . import page

FIELDS = ("counters", "caches", "arrays", "locks", "tasks", "copies")
QUICK = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("fields", nargs="*", help=f"of {', '.join(FIELDS)}; left out, all")
    parser.add_argument("--quick", action="store_true", help="see whether all of it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--rest", type=Path, metavar="FILE", help="take what isn't measured from --json of before"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page there")
    given = parser.parse_args()
    unknown = set(given.fields) - set(FIELDS)
    if unknown:
        parser.error(f"no field is called {', '.join(sorted(unknown))}")
    # Whatever asks this process to end, all that it has started ends first.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    logging.disable(logging.WARNING)
    setting = Setting(workers=2, effort=QUICK if given.quick else 1.0)
    rest = json.loads(given.rest.read_text("utf-8"))["fields"] if given.rest else {}
    wanted = given.fields or ([] if given.rest else FIELDS)
    found = [
        measured(name, setting) if name in wanted else recalled(name, rest[name])
        for name in FIELDS
        if name in wanted or name in rest
    ]
    print(page.text(found))
    if given.json is not None:
        given.json.write_text(json.dumps(page.plain(found), indent=1) + "\n")
    if given.page is not None:
        page.write(given.page, found)


def measured(name: str, setting: Setting) -> page.Field:
    """Measure the comparisons of a field."""
    field = page.Field.of(importlib.import_module(f".{name}", __package__))
    for comparison in field.comparisons:
        print(f"{name}: {comparison.title}", file=sys.stderr, flush=True)
        comparison.measure(setting)
        for way, why in comparison.failed.items():
            print(f"    {way}: {why}", file=sys.stderr, flush=True)
    return field


def recalled(name: str, known: dict[str, Any]) -> page.Field:
    """Fill in what an earlier run has written."""
    field = page.Field.of(importlib.import_module(f".{name}", __package__))
    for comparison, before in zip(field.comparisons, known["comparisons"], strict=True):
        comparison.ways = [
            Way(way["name"], lambda: 0.0, way["role"], way["seconds"]) for way in before["ways"]
        ]
        comparison.failed = before["failed"]
    return field


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
