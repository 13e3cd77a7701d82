"""Measure all fields and write what came of it: `nox -s peers`."""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

from my_service.bench.timing import Setting

from . import page
from .compare import Comparison

FIELDS = ("counters", "caches", "arrays", "locks", "tasks", "copies")
QUICK = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("fields", nargs="*", help=f"of {', '.join(FIELDS)}; left out, all")
    parser.add_argument("--quick", action="store_true", help="see whether all of it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page there")
    given = parser.parse_args()
    unknown = set(given.fields) - set(FIELDS)
    if unknown:
        parser.error(f"no field is called {', '.join(sorted(unknown))}")
    # Whatever asks this process to end, all that it has started ends first.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    logging.disable(logging.WARNING)
    setting = Setting(workers=2, effort=QUICK if given.quick else 1.0)
    found = [measured(name, setting) for name in given.fields or FIELDS]
    print(page.text(found))
    if given.json is not None:
        given.json.write_text(json.dumps(page.plain(found), indent=1) + "\n")
    if given.page is not None:
        page.write(given.page, found)


def measured(name: str, setting: Setting) -> page.Field:
    """Measure the comparisons of a field."""
    module = importlib.import_module(f".{name}", __package__)
    comparisons: list[Comparison] = module.comparisons()
    for comparison in comparisons:
        print(f"{name}: {comparison.title}", file=sys.stderr, flush=True)
        comparison.measure(setting)
        for way, why in comparison.failed.items():
            print(f"    {way}: {why}", file=sys.stderr, flush=True)
    targets = module.targets({one.key: one for one in comparisons})
    return page.Field(name, module.__doc__ or "", comparisons, targets)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
