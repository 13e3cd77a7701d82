"""Write the numbers of docs/performance.md into README.md: `python docs/peers/readme.py`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs/performance.md"

#: What README.md says, with {} for a number, and the row of "Targets" that the number is from.
QUOTED = {
    "an add {} times as fast as `Value` with its lock": (
        "counters: Counter.add(1), as fast as Value with its lock"
    ),
    "a repeated hit {} times as `Manager().dict()`": (
        "cache hits: Cache, a repeated hit, as fast as Manager().dict()"
    ),
    "200 MB there and back {} times as a pickling `Pool`": (
        "arrays: map_blocks, as fast as Pool, pickled"
    ),
}


def found_in(page: str) -> dict[str, float]:
    """Return what was found for each target, of those that are a ratio."""
    rows = re.findall(r"^\| (.+?) \| .+? \| ([\d,.]+)× \|", page, re.MULTILINE)
    return {text: float(number.replace(",", "")) for text, number in rows}


def with_numbers(readme: str, page: str) -> str:
    """Return the README with the numbers of the page.

    Raises:
        ValueError: the README does not say one of the phrases once, or the page has no such row.
    """
    found = found_in(page)
    for phrase, row in QUOTED.items():
        if row not in found:
            raise ValueError(f"{PAGE.name} has no target {row!r}")
        words = re.escape(phrase).replace(r"\ ", r"\s+").replace(r"\{\}", r")[\d,.]+(")
        readme, count = re.subn(f"({words})", rf"\g<1>{found[row]:,.0f}\g<2>", readme)
        if count != 1:
            raise ValueError(f"{README.name} says {phrase!r} {count} times, not once")
    return readme


if __name__ == "__main__":
    README.write_text(with_numbers(README.read_text("utf-8"), PAGE.read_text("utf-8")), "utf-8")
