"""Sizes and durations, as they are typed and as they are shown."""

import re
from decimal import Decimal

SIZES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1"}


def parse_size(text: str) -> int:
    """Return the bytes that are meant by 1MB, 512KiB or 300B.

    Raises:
        ValueError: it is not a number with such a unit, or not a whole number of bytes.
    """
    number, unit = _split(text)
    size = number * SIZES[unit] if number is not None and unit in SIZES else None
    if size is None or size != int(size):
        raise ValueError(f"{_shown(text)} is not a size: write it like 1MB, 512KiB or 300B")
    return int(size)


def parse_seconds(text: str) -> float:
    """Return the seconds that are meant by 2ms, 1.5s or 300us.

    Raises:
        ValueError: it is not a number with such a unit.
    """
    number, unit = _split(text)
    if number is None or unit not in SECONDS:
        raise ValueError(f"{_shown(text)} is not a duration: write it like 2ms, 1.5s or 300us")
    return float(number * Decimal(SECONDS[unit]))


def _split(text: str) -> tuple[Decimal | None, str]:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)([A-Za-zµ]+)", text)
    return (Decimal(found[1]), found[2]) if found else (None, "")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def show_seconds(seconds: float) -> str:
    """Return three digits and the unit that suits them: 71.2 ns, 1.73 µs, 250 ms."""
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds)} s"


def show_size(size: int) -> str:
    """Return the bytes in the unit that suits them: 300 B, 1.5 MB."""
    unit = next((unit for unit in ("GB", "MB", "kB") if SIZES[unit] <= size), "B")
    return f"{size / SIZES[unit]:.4g} {unit}"


def show_times(ratio: float) -> str:
    """Return how many times: 0.85×, 3.12×, 1,254×."""
    return f"{_three_digits(ratio)}×"


def _three_digits(number: float) -> str:
    places = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:,.{places}f}"
