"""The command `bench` on other engines: a workload is measured on those that can be had."""

import importlib
from pathlib import Path

import leftovers
import pytest
from command_line import complaint, run
from remote_engines import REMOTE, module_of
from under_test import cli, sharing

record = importlib.import_module(f"{cli.PACKAGE}.bench.record")
chosen = importlib.import_module(f"{cli.PACKAGE}.sharing.chosen")
command = importlib.import_module(f"{cli.PACKAGE}.bench.command")
timing = importlib.import_module(f"{cli.PACKAGE}.bench.timing")
TINY = ("--quick", "--rounds", 1, "--workers", 2)
SHAPE = ("--payload", "1kB", "--keys", 10, "--reads", 0.5, "--item-cost", "10us")


@pytest.mark.timeout(180)
def test_each_engine_is_measured_on_a_workload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each pattern starts each engine anew. The last has most to do elsewhere.
    monkeypatch.setattr(command, "PATTERNS", chosen.PATTERNS[-1:])
    path = tmp_path / "run.json"
    modules = [module_of(engine) for engine in REMOTE]
    ran = run("bench", *TINY, *SHAPE, "--start-method", "fork", "--json", path)
    for module in modules:
        leftovers.apart.update(module.helpers())
    assert (ran.code, ran.err) == (0, "")
    for group in record.read(path).groups:
        names = [one.name.partition(",")[0] for one in group.timings if one.role == "ours"]
        assert names == list(chosen.ENGINES)
    assert "Use " in ran.out or "Don't use " in ran.out


@pytest.mark.parametrize("engine", REMOTE)
def test_what_people_copy_is_not_compared_with_a_cluster(engine: str) -> None:
    said = complaint("bench", *TINY, "--engine", engine)
    assert f"is not compared with '{engine}'" in said
    assert "--payload" in said


def test_an_engine_that_cannot_be_had_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(setting: object, state: object) -> None:
        raise sharing.SharingError("it needs nothing, which is not installed")

    everyone = [one.engine for one in command.others_of(timing.Setting())]
    assert everyone == list(chosen.ENGINES[1:])
    monkeypatch.setattr(timing.Setting, "open", refuse)
    assert command.others_of(timing.Setting()) == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(REMOTE)
    assert all("not measured: it needs nothing, which is not installed" in line for line in said)
