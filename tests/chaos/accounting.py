"""The options and the last line of `nox -s chaos`, whose suite is laid over a project."""

import multiprocessing
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import pytest
import storm

HUNG = ("from pytest-timeout", "TimeoutError")
"""What a test says that has waited in vain, or was ended because it did not end."""


@dataclass
class Account:
    """What a test has counted.

    Attributes:
        kills: how many workers died.
        lost: what did not come out, "doubled" what did twice, "torn" what was not whole.
        next_holders: ms from each death in a section to the next one who is in it.
        ends: ms from each death of a main process to that of its last child.
    """

    kills: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    next_holders: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def pytest_addoption(parser: pytest.Parser) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    parser.addoption("--seed", type=int, default=seed, help="the same chances as in another run")
    parser.addoption("--kills", type=int, default=1000, help="how many, over all start methods")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proves(patterns, event, ...): a cell of docs/guarantees.md")


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: --kills {config.getoption('kills')} --seed {config.getoption('seed')}"


@pytest.fixture(scope="session", autouse=True)
def _storms_are_loaded(_light_workers: None) -> None:
    """By the server of the start method forkserver, for each worker that is killed."""
    multiprocessing.set_forkserver_preload([storm.__name__])


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance, of its own for each test, and the same again for the same seed."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.name}")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """The share of one start method."""
    total: int = request.config.getoption("kills")
    return -(-total // 3)


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How often what takes long is done again, at another moment."""
    total: int = request.config.getoption("kills")
    return 1 + total // 500


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    account = Account()
    yield account
    request.node.user_properties.append(("account", asdict(account)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what has been counted, whatever failed."""
    sums: Counter[str] = Counter()
    times: dict[str, list[float]] = {"next_holders": [], "ends": []}
    for report in terminalreporter.getreports(""):
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == "account":
                    sums.update({key: n for key, n in value.items() if key not in times})
                    for key in times:
                        times[key] += value[key]
    left = sum(report.when == "teardown" for report in terminalreporter.getreports("error"))
    failed = terminalreporter.getreports("failed")
    hung = sum(any(sign in one.longreprtext for sign in HUNG) for one in failed)
    line = (
        f"{sums['kills']} kills (--seed {terminalreporter.config.getoption('seed')}): "
        f"{sums['lost']} lost, {sums['doubled']} doubled, {sums['torn']} torn, {left} left, "
        f"{hung} hung"
    )
    if waits := times["next_holders"]:
        line += (
            "; the next holder after a kill in a section: "
            f"median {statistics.median(waits):.1f} ms, worst {max(waits):.0f} ms"
        )
    if ends := times["ends"]:
        line += f"; no child {max(ends):.0f} ms after a main process was killed"
    terminalreporter.write_line(line)
