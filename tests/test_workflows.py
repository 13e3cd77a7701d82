"""Workflows and container files, the template's own and the generated: linted, offline."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Render
from matrix import CONFIG, PATTERNS, PYTHONS, ci_matrix
from rendering import ROOT, command

OWN = ROOT / ".github/workflows/ci.yml"
SCRIPTS = Path(sys.executable).parent
#: What check-jsonschema calls the schemas that it brings.
SCHEMAS = {
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
    "compose.yaml": "vendor.compose-spec",
}
CHECKOUT = "actions/checkout"


def lint(path: Path, schema: str) -> None:
    transform = ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    command(SCRIPTS / "check-jsonschema", "--builtin-schema", schema, *transform, path)
    if "github" in schema:
        command(SCRIPTS / "zizmor", "--offline", "--persona", "pedantic", path)


def test_our_workflow_is_clean() -> None:
    lint(OWN, "vendor.github-workflows")


@pytest.mark.parametrize("python_min", PYTHONS)
@pytest.mark.parametrize("ci", CONFIG["ci"]["choices"].values())
def test_generated_ones_are_clean(rendered: Render, ci: str, python_min: str) -> None:
    for patterns in (list(PATTERNS), ["counter"]):
        project = rendered(patterns=patterns, ci=ci, docker=True, python_min=python_min)
        found = {name for name in SCHEMAS if (project / name).exists()}
        assert found == {"compose.yaml"} | {
            "github": {".github/workflows/ci.yml"},
            "gitlab": {".gitlab-ci.yml"},
        }.get(ci, set())
        for name in found:
            lint(project / name, SCHEMAS[name])


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (".github/workflows/ci.yml", "runs-on: ubuntu-latest", "run-on: ubuntu-latest"),
        (".github/workflows/ci.yml", f"{CHECKOUT}@3d3c42e5", f"{CHECKOUT}@main # 3d3c42e5"),
        (".github/workflows/ci.yml", "permissions: {}", "permissions: write-all"),
        (".gitlab-ci.yml", "interruptible: true", "interruptible: perhaps"),
        ("compose.yaml", "init: true", "init: [a]"),
    ],
)
def test_mistakes_are_seen(
    rendered: Render, tmp_path: Path, name: str, right: str, wrong: str
) -> None:
    ci = "gitlab" if "gitlab" in name else "github"
    text = (rendered(ci=ci, docker=True) / name).read_text("utf-8")
    assert right in text
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(right, wrong), "utf-8")
    with pytest.raises(AssertionError):
        lint(path, SCHEMAS[name])


@pytest.mark.parametrize("generated", [False, True])
def test_workflows_may_do_little(rendered: Render, generated: bool) -> None:
    path = rendered(ci="github") / ".github/workflows/ci.yml" if generated else OWN
    text = path.read_text("utf-8")
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {}
    assert flow["concurrency"]
    for job in flow["jobs"].values():
        assert job["timeout-minutes"] <= 20
        assert job.get("permissions", {"contents": "read"}) == {"contents": "read"}
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", one) for one in uses)


def test_ci_runs_everything_that_nox_lists() -> None:
    output = command(sys.executable, "-m", "nox", "--list", cwd=ROOT)
    known = set(re.findall(r"^[*-] (\S+)", output, re.MULTILINE))
    jobs = ci_matrix()
    assert {one["session"] for one in jobs} <= known
    assert {one["session"] for one in jobs} >= {name for name in known if "(" in name}
    assert {one["python"] for one in jobs} == set(PYTHONS)
    assert {one["copier"] for one in jobs} == {"", CONFIG["_min_copier_version"]}
    assert len({json.dumps(one) for one in jobs}) == len(jobs) <= 256


def test_the_matrix_is_one_line_of_json() -> None:
    output = command(sys.executable, "-m", "nox", "-s", "matrix", cwd=ROOT)
    (line,) = [one for one in output.splitlines() if one.startswith("{")]
    assert json.loads(line) == {"include": ci_matrix()}
