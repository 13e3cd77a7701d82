"""What can be chosen, read from copier.yml, and which variants are rendered and which are run.

The noxfile reads this too, so it needs nothing but PyYAML.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "template"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
#: Read from where the questions are defined, so that a new one can't be forgotten here.
PATTERNS: dict[str, dict[str, str]] = CONFIG["pattern_table"]["default"]
#: `processes` is not among them, since every project has it.
ENGINES: dict[str, dict[str, Any]] = CONFIG["engine_table"]["default"]
PYTHONS: list[str] = CONFIG["all_pythons"]["default"]
SETS = [chosen for size in range(1, len(PATTERNS) + 1) for chosen in combinations(PATTERNS, size)]
#: Which files a choice brings. One that isn't listed has no test, and fails the run.
BRINGS: dict[str, dict[object, set[str]]] = {
    "python_min": {python: set() for python in ("3.11", "3.12", "3.13", "3.14")},
    "ci": {"github": {".github/workflows/ci.yml"}, "gitlab": {".gitlab-ci.yml"}, "none": set()},
    "docker": {False: set(), True: {"Dockerfile", ".dockerignore", "compose.yaml"}},
    "engines": {name: {f"src/my_service/sharing/engines/{name}/engine.py"} for name in ENGINES},
}
#: Which engines come together in a project that is rendered.
ENGINE_SETS: list[tuple[str, ...]] = [(), *((name,) for name in ENGINES), tuple(ENGINES)]
#: The questions that take any line of text are asked together, each kind of text once.
TEXTS = {
    "plain": "",
    "quotes": 'say "it\'s" C:\\new\\ {{ x }} {% y %} # no: comment',
    "letters": "日本語 שלום Ünïcödé 🎉",
}
TEXT_QUESTIONS = ("project_name", "project_description", "author_name")


class Variant(NamedTuple):
    """A set of patterns, the other answers by name, and the Python that it runs on."""

    patterns: tuple[str, ...]
    others: tuple[tuple[str, object], ...]
    python: str | None = None

    @property
    def answers(self) -> dict[str, object]:
        """What Copier is told."""
        answers = {"patterns": list(self.patterns)} | dict(self.others)
        answers["engines"] = list(self.engines)
        text = TEXTS[str(answers.pop("text"))]
        return answers | {question: text for question in TEXT_QUESTIONS if text}

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that it has beside `processes`."""
        return cast("tuple[str, ...]", dict(self.others)["engines"])

    def __str__(self) -> str:
        others = dict(self.others) | {"engines": name_of(self.engines) or "none"}
        return f"{name_of(self.patterns)}, " + " ".join(f"{key}={others[key]}" for key in others)


def name_of(patterns: Iterable[str]) -> str:
    """Return how a set is called in a list of tests."""
    return "+".join(patterns)


def choices_of(config: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values of each question that offers some."""
    found: dict[str, list[Any]] = {}
    for name, question in config.items():
        if name.startswith("_") or question.get("when") is False:
            continue
        choices = question.get("choices")
        if isinstance(choices, str):
            # Made from a table, which the template names.
            (table,) = [one for one in config if not one.startswith("_") and f" {one}" in choices]
            found[name] = list(config[table]["default"])
        elif choices:
            found[name] = list(choices.values() if isinstance(choices, dict) else choices)
        elif question["type"] == "bool":
            found[name] = [False, True]
    return found


def untested(config: dict[str, Any], template: Path = TEMPLATE) -> list[str]:
    """Name the choices that no test looks at, and the tests of choices that are gone."""
    choices = choices_of(config)
    patterns = choices.pop("patterns")
    tested = {test.stem for test in (template / "tests/sharing").glob("test_*.py")}
    found = [f"patterns={name}" for name in patterns if f"test_{name}" not in tested]
    for question in choices.keys() | BRINGS.keys():
        offered, known = set(choices.get(question, [])), set(BRINGS.get(question, {}))
        found += [f"{question}={value}" for value in offered ^ known]
    texts = {
        name for name, one in config.items() if name[0] != "_" and one.get("when") is not False
    }
    texts -= {*choices, *TEXT_QUESTIONS, "patterns", "package_name", "author_email"}
    return sorted([*found, *texts])


OTHERS: dict[str, list[Any]] = {
    name: values for name, values in choices_of(CONFIG).items() if name != "patterns"
} | {"engines": ENGINE_SETS, "text": list(TEXTS)}
DEFAULTS = {name: CONFIG[name]["default"] for name in OTHERS if name != "text"} | {
    "python_min": PYTHONS[0],
    "engines": (),
    "text": "plain",
}


def rendered_variants() -> Iterator[Variant]:
    """Yield every set of patterns with every value of each other question."""
    for patterns in SETS:
        yield Variant(patterns, tuple(DEFAULTS.items()))
        for question, values in OTHERS.items():
            for value in values:
                if value != DEFAULTS[question]:
                    yield Variant(patterns, tuple((DEFAULTS | {question: value}).items()))


def pairwise_sets(turn: int = 0) -> list[tuple[str, ...]]:
    """Choose sets so that each pattern comes with and without one value, such as a Python.

    Each two patterns meet on the Python where all sets run. ``turn`` gives another choice.
    """
    missing = {(name, there) for name in PATTERNS for there in (False, True)}
    offered = [*SETS[turn:], *SETS[:turn]]
    result = []
    while missing:
        result.append(max(offered, key=lambda chosen: len(_there(chosen) & missing)))
        missing -= _there(result[-1])
    return result


def _there(chosen: tuple[str, ...]) -> set[tuple[str, bool]]:
    return {(name, name in chosen) for name in PATTERNS}


def facts(variant: Variant) -> frozenset[object]:
    """Return the pairs of values that a variant shows together.

    The Python that runs meets each pattern, with and without; what else is answered only
    changes files that no Python reads differently.
    """
    one: list[tuple[str, object]] = [*variant.others, *_there(variant.patterns)]
    on = ((("python", variant.python), pattern) for pattern in _there(variant.patterns))
    return frozenset({*(frozenset(pair) for pair in combinations(one, 2)), *on})


@cache
def run_variants(full: str) -> tuple[Variant, ...]:
    """Choose what runs: all sets on one Python, a pairwise choice of them on each other one.

    Their other answers are chosen so that each two values of all questions, and of the Python
    that runs, come together somewhere. A project runs on no older Python than it asks for.
    """
    # Other engines need more than the environment of all variants has: they run by themselves.
    offered = OTHERS | {"engines": [()]}
    others = [tuple(zip(offered, values, strict=True)) for values in product(*offered.values())]
    facts_of: dict[tuple[str, tuple[str, ...]], dict[Variant, frozenset[object]]] = {}
    for python in PYTHONS:
        for patterns in SETS if python == full else pairwise_sets(PYTHONS.index(python)):
            new = (Variant(patterns, one, python) for one in others)
            facts_of[python, patterns] = {
                variant: facts(variant)
                for variant in new
                if PYTHONS.index(str(dict(variant.others)["python_min"])) <= PYTHONS.index(python)
            }
    missing = set().union(*(one for options in facts_of.values() for one in options.values()))
    result = []
    # First one for each, then more while two values have not met.
    for options in facts_of.values():
        result.append(max(options, key=lambda one: len(options[one] & missing)))
        missing -= options[result[-1]]
    every = {variant: one for options in facts_of.values() for variant, one in options.items()}
    while missing:
        result.append(max(every, key=lambda one: len(every[one] & missing)))
        missing -= every[result[-1]]
    return tuple(result)


def engine_variants(*, all_of_them: bool = False) -> list[Variant]:
    """List the variants whose other engines run: that of all engines and all patterns.

    With ``all_of_them`` each engine with each pattern and with all of them, too.
    """
    everything = tuple(PATTERNS)
    chosen: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(tuple(ENGINES), everything)]
    if all_of_them:
        sets = [*((name,) for name in PATTERNS), everything]
        chosen += [((engine,), patterns) for engine in ENGINES for patterns in sets]
    return [
        Variant(patterns, tuple((DEFAULTS | {"engines": engines}).items()))
        for engines, patterns in chosen
    ]


def ci_matrix() -> list[dict[str, str]]:
    """List the jobs of CI: Linux in full, macOS for a part, the oldest Copier and the newest."""
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    lowest = str(CONFIG["_min_copier_version"])

    def job(
        session: str, python: str, os: str = "ubuntu-latest", copier: str = ""
    ) -> dict[str, str]:
        return {"session": session, "python": python, "os": os, "copier": copier}

    jobs = [job("lint", newest)]
    jobs += [job(one, python) for one in ("kills", "chaos") for python in (oldest, newest)]
    jobs += [job("tests", python) for python in PYTHONS]
    for session in ("tests", "updates"):
        jobs += [job(session, oldest, copier=lowest), job(session, newest, "macos-latest")]
    jobs += [job("updates", oldest), job("updates", newest), job("engines", oldest)]
    jobs += [job(f"variants({name_of(one)})", python) for python in PYTHONS for one in SETS]
    jobs += [
        job(f"variants({name_of(one)})", python, "macos-latest")
        for python in (oldest, newest)
        for one in pairwise_sets()
    ]
    return jobs
