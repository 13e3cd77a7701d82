"""Projects with engines beside `processes`, run on real clusters on this machine."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Render
from matrix import PATTERNS, Variant, engine_variants, name_of
from rendering import command, install

Count = Callable[[str, object], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take the variants that were asked for."""
    if "variant" in metafunc.fixturenames:
        engine, every = (metafunc.config.getoption(name) for name in ("engine", "every"))
        variants = engine_variants(all_of_them=every or engine)
        if engine:
            alone = (engine,), tuple(PATTERNS)
            variants = [one for one in variants if (one.engines, one.patterns) == alone]
        ids = [f"{name_of(one.engines)}, {name_of(one.patterns)}" for one in variants]
        metafunc.parametrize("variant", variants, ids=ids)


@pytest.mark.timeout(1000)
def test_the_same_contract_holds(
    fresh: Render, tmp_path: Path, record_property: Count, variant: Variant
) -> None:
    project = fresh(**variant.answers)
    environment = install(project, tmp_path / "installed")
    folder = project / "tests/sharing"
    tests = sorted(folder.glob("test_*remote*.py"))
    assert len(tests) > len(variant.patterns)
    others = (*(f"test_{name}.py" for name in variant.engines), "test_leases.py")
    tests += [path for name in others if (path := folder / name).exists()]
    # Short, since a socket's path must be; its own, since others run beside it.
    temporary = tempfile.mkdtemp(prefix="e")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=project,
        env=os.environ | environment | {"TMPDIR": temporary},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=980,
    )
    shutil.rmtree(temporary, ignore_errors=True)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed.*", done.stdout, re.MULTILINE)
    assert passed, done.stdout
    assert int(passed[1]) >= 10
    record_property(
        "counted", f"{name_of(variant.engines)}, {name_of(variant.patterns)}: {passed[0]}"
    )


def test_an_engine_that_is_not_installed_is_named(fresh: Render, tmp_path: Path) -> None:
    project = fresh(engines=["ray"])
    without = tmp_path / "without/ray"
    without.mkdir(parents=True)
    (without / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n"
    )
    paths = os.pathsep.join([str(without.parent), str(project / "src")])
    script = [sys.executable, "-m", "my_service", "demo", "--engine"]

    def refused(engine: str) -> str:
        done = subprocess.run(
            [*script, engine],
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        return line

    assert "pip install 'my-service[ray]'" in refused("ray")
    assert "unknown engine 'dask': choose one of processes, ray" in refused("dask")
    loaded = command(
        sys.executable,
        "-c",
        "import sys, my_service.sharing, my_service.cli; print(*sys.modules)",
        PYTHONPATH=paths,
    )
    assert not {"ray", "dask", "joblib", "cloudpickle"} & set(loaded.split())
