"""Measure what is shared beside the snippets that people copy, or on a workload of your own.

Each pattern of the project is measured with all workers at once, beside the code that is usually
written for it and the floor: the same without sharing anything. The ways take turns.

With --payload, --keys, --reads or --item-cost it measures work of that shape instead, beside one
process that does it alone, and ends in a recommendation.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar, Unpack

import typer

from .. import cli
from ..files import InputError, check_apart, check_writable, replacing
from ..progress import track
from ..sharing import EngineOptions, SharingError
from ..sharing.chosen import ENGINES, PATTERNS
from ..sharing.engines.engine import available_cores
from . import units
from .advice import advise
from .against import Change, changes
from .record import Group, Record, differences, facts, read
from .sheets import in_words, sheets
from .timing import Setting, measuring
from .workload import Nothing, Shape, measuring_shape

T = TypeVar("T")
QUICK = 0.05
LARGEST = 256_000_000


class Slower(InputError):
    """Something got slower: CI is to stop here."""


def _parser(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let typer say which option has the wrong value."""

    def parser(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parser


def _payload(text: str) -> int:
    size = units.parse_size(text)
    if size > LARGEST:
        raise ValueError(f"{text} is more than the 256MB that some seconds are enough for")
    return size


def _part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise ValueError(f"{text!r} is not a part of the items: write it from 0 to 1, like 0.95")
    return part


WORKLOAD, REPORT = "Your workload", "What comes of it"

Payload = Annotated[
    int | None,
    typer.Option(
        parser=_parser(_payload),
        metavar="SIZE",
        help="Bytes an item brings along, or that are kept for a key: 1MB, 512KiB. [1KB]",
        rich_help_panel=WORKLOAD,
    ),
]
Keys = Annotated[
    int | None,
    typer.Option(min=1, max=10_000_000, help="How many keys. [1000]", rich_help_panel=WORKLOAD),
]
Reads = Annotated[
    float | None,
    typer.Option(
        parser=_parser(_part),
        metavar="PART",
        help="The part of the items that only read what is shared, 0 to 1. [0.9]",
        rich_help_panel=WORKLOAD,
    ),
]
ItemCost = Annotated[
    float | None,
    typer.Option(
        parser=_parser(units.parse_seconds),
        metavar="TIME",
        help="What an item keeps a core busy for: 2ms, 1.5s, 300us. [1ms]",
        rich_help_panel=WORKLOAD,
    ),
]
Rounds = Annotated[int, typer.Option(min=1, max=1_000, help="How often each way has its turn.")]
Quick = Annotated[bool, typer.Option("--quick", help="A short look, less exact.")]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write all numbers there, for machines.",
        rich_help_panel=REPORT,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write a report with charts there.", rich_help_panel=REPORT
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Compare with what --json wrote earlier; ends with 1 if something got slower.",
        rich_help_panel=REPORT,
    ),
]


def main(
    payload: Payload = None,
    keys: Keys = None,
    reads: Reads = None,
    item_cost: ItemCost = None,
    rounds: Rounds = 7,
    quick: Quick = False,
    json: Json = None,
    html: Html = None,
    against: Against = None,
    **options: Unpack[EngineOptions],
) -> dict[str, object]:
    """Measure, print the tables, and write and compare what was asked for."""
    from . import report

    outputs = [path for path in (json, html) if path is not None]
    check_apart([] if against is None else [against], outputs)
    for path in outputs:
        check_writable(path)
    if html is not None:
        report.check()
    earlier = None if against is None else read(against)
    setting = Setting(
        max(counts(options.get("workers"))),
        QUICK if quick else 1.0,
        options.get("engine", ENGINES[0]),
        options.get("start_method"),
        options.get("address"),
    )
    asked = {"payload": payload, "keys": keys, "reads": reads, "item_cost": item_cost}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if given:
        settings = [setting] if "engine" in options else [setting, *others_of(setting)]
        record = measure_shape(replace(Shape(), **given), settings, rounds)
    elif setting.engine in ENGINES[1:]:
        raise InputError(
            f"what people copy runs in {ENGINES[0]} of this machine, and so is not compared with "
            f"{setting.engine!r}: describe a workload, such as --payload 1MB, or leave --engine out"
        )
    else:
        settings = [replace(setting, workers=n) for n in counts(setting.workers)]
        record = compare_ways(settings, rounds)
    found = [] if earlier is None else changes(earlier, record)
    show_tables(record, found)
    if json is not None:
        with replacing(json) as (file,):
            record.write(file)
    if html is not None:
        with replacing(html) as (file,):
            file.write(report.page(record, found))
    if earlier is not None:
        warn(differences(earlier, record), against)
    slower = [change for change in found if change.slower]
    if slower:
        worst = max(slower, key=lambda change: change.now / change.before)
        raise Slower(
            f"slower than in {against}: {len(slower)} of {len(found)}, and the most {worst.name} "
            f"with {in_words(worst.workers)}, {worst.now / worst.before:.2f} times as slow"
        )
    return {}


def others_of(setting: Setting) -> list[Setting]:
    """Return the same with each other engine that can be had, on this machine."""
    found = []
    for engine in ENGINES[1:]:
        other = Setting(setting.workers, setting.effort, engine)
        try:
            other.open(Nothing())  # and not entered: that it is installed is enough
        except SharingError as error:
            print(f"{cli.COMMAND}: not measured: {error}", file=sys.stderr)
        else:
            found.append(other)
    return found


def compare_ways(settings: list[Setting], rounds: int) -> Record:
    """Measure the ways of each pattern in these settings."""
    groups: list[Group] = []
    steps = _ways_of_all(settings, rounds, groups)
    for _ in track(steps, "rounds", len(PATTERNS) * len(settings) * (rounds + 1)):
        pass
    return Record(facts(settings[-1], cli.COMMAND), None, groups)


def measure_shape(shape: Shape, settings: list[Setting], rounds: int) -> Record:
    """Measure a shape with each pattern in these settings, one an engine, and say what to do."""
    makers = {name: _module(name).work for name in PATTERNS}
    groups: list[Group] = []
    steps = measuring_shape(shape, makers, settings, rounds, groups)
    for _ in track(steps, "rounds", (1 + len(makers)) * (rounds + 1)):
        pass
    advice = advise(shape.payload, groups)
    return Record(facts(settings[0], cli.COMMAND), asdict(shape), groups, advice)


def show_tables(record: Record, found: list[Change]) -> None:
    """Print what was measured, and below it the recommendation."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, markup=False)
    for sheet in sheets(record, found):
        said = f"{sheet.title}: {sheet.text}" if record.shape is None else sheet.text
        console.print(said, soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD)
        for place, name in enumerate(sheet.head):
            table.add_column(name, justify="right" if place else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    if record.advice:
        console.print(record.advice, soft_wrap=True)


def counts(most: int | None) -> list[int]:
    """Return 1, 2, 4 … up to that many workers; left out, up to the cores.

    Raises:
        SharingError: there is none.
    """
    if most is None:
        most = available_cores()
    if most < 1:
        raise SharingError(f"workers must be a whole number above 0, not {most}")
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def _ways_of_all(settings: list[Setting], rounds: int, to: list[Group]) -> Iterator[str]:
    for name in PATTERNS:
        module = _module(name)
        title = (module.__doc__ or "").partition("\n")[0]
        for setting in settings:
            with module.ways(setting) as ways:
                for _ in measuring(ways, rounds):
                    yield name
            to.append(Group.of(name, title, setting.workers, ways))


def _module(pattern: str) -> ModuleType:
    return importlib.import_module(f".{pattern}", __package__)


def warn(different: list[str], against: Path | None) -> None:
    """Say on stderr that a comparison means little."""
    if different:
        print(
            f"{cli.COMMAND}: {against} was measured in another way, so compare with care: "
            f"{', '.join(different)}",
            file=sys.stderr,
        )
