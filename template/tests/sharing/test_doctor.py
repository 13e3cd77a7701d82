"""What `doctor` says of a machine, and that it removes what has no owner any more, and no more."""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import complaint, report, run
from faults import assert_red
from signs import LIMIT
from under_test import cli, limits, memory, owners, sharing

doctor = importlib.import_module(f"{cli.PACKAGE}.doctor")

GB = 1 << 30


@dataclasses.dataclass
class Nothing:
    """A state that is not shared."""


linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc and no /dev/shm")


# Limits of containers


def machine(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Make a /proc, with the control groups of this process, and a /sys/fs/cgroup."""
    proc, root = folder / "proc", folder / "cgroup"
    found = {proc / "self/cgroup": groups, **{root / name: files[name] for name in files}}
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return proc, root


OLD = "9:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "400000 100000"}, 3.0),
        ("0::/docker/1f", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/../other", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": ""}, None),
        ("0::/", {}, None),
        ("", {"cpu.max": "200000 100000"}, 2.0),
        (
            OLD,
            {
                "cpu,cpuacct/box/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (OLD, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}, 2.0),
        (OLD, {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, None),
        (OLD, {"cpu/box/cpu.cfs_quota_us": "100000"}, None),
        (f"{OLD}\n0::/", {"unified/cpu.max": "100000 100000"}, 1.0),
    ],
)
def test_the_cores_of_a_container_are_read_from_its_groups(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    found = limits.cores(*machine(tmp_path, groups, files))
    assert found.quota == quota
    assert found.machine == os.cpu_count()


@pytest.mark.parametrize(
    ("cores", "usable"),
    [
        ((8, 8, None), 8),
        ((8, 3, None), 3),
        ((8, None, None), 8),
        ((8, 8, 2.0), 2),
        ((8, 8, 2.1), 3),
        ((8, 8, 0.1), 1),
        ((8, 2, 4.0), 2),
    ],
)
def test_the_narrowest_limit_counts(
    cores: tuple[int, int | None, float | None], usable: int
) -> None:
    assert limits.Cores(*cores).usable == usable


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/", {"memory.max": "1073741824"}, GB),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "4096"}, 4096),
        ("0::/a", {}, None),
        (OLD, {"memory/box/memory.limit_in_bytes": "2147483648"}, 2 * GB),
        (OLD, {"memory/memory.limit_in_bytes": "4096"}, 4096),
        (OLD, {"memory/box/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_the_memory_of_a_container_is_read_from_its_groups(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    assert limits.memory_limit(*machine(tmp_path, groups, files)) == limit


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/", {}, 32768),
        ("0::/", {"pids.max": "max"}, 32768),
        ("0::/a/b", {"a/b/pids.max": "max", "a/pids.max": "100"}, 100),
        ("3:pids:/box", {"pids/box/pids.max": "200"}, 200),
        ("0::/", {"pids.max": "99999"}, 32768),
    ],
)
def test_the_limit_of_processes_is_read_from_system_group_and_user(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    limit: int,
) -> None:
    proc, root = machine(tmp_path, groups, files)
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "sys/kernel/pid_max").write_text("32768\n")
    (proc / "sys/kernel/threads-max").write_text("50000\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert limits.process_limit(proc, root) == limit
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (50, 60))
    assert limits.process_limit(proc, root) == 50


def test_a_limit_that_cannot_be_known_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.cores(tmp_path, tmp_path).quota is None
    assert limits.memory_limit(tmp_path, tmp_path) is None
    assert limits.available_memory(tmp_path) is None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert limits.process_limit(tmp_path, tmp_path) is None


# Verdicts


def room(total: int, free: int) -> Callable[[Path], SimpleNamespace]:
    return lambda _: SimpleNamespace(f_blocks=total >> 12, f_bavail=free >> 12, f_frsize=4096)


@pytest.mark.parametrize(
    ("check", "verdict", "part"),
    [
        (lambda: doctor.check_start_method(None), "ok", "spawn (this Python's own default: "),
        (lambda: doctor.check_start_method("fork"), "warn", "prefer spawn"),
        (lambda: doctor.check_start_method("clone"), "bad", "choose one of spawn, forkserver"),
        (lambda: doctor.check_cores(limits.Cores(8, 4, 2.5), 3), "ok", "3 of the machine's 8"),
        (lambda: doctor.check_cores(limits.Cores(8, 4, 2.5), 3), "ok", "the time of 2.5"),
        (lambda: doctor.check_cores(limits.Cores(8, 4, 2.5), 4), "warn", "--workers 3 is better"),
        (lambda: doctor.check_cores(limits.Cores(8), 4), "ok", "can't be known on this system"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB), GB, 4), "ok", "8 GiB in the machine"),
        (lambda: doctor.check_memory(limits.Memory(None), GB, 4), "ok", "can't be known"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, GB), GB, 4), "warn", "take 1.125 GiB"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, 7 * GB, GB), GB, 4), "warn", "killed"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, 7 * GB, GB), 2 * GB, 4), "bad", "2 GiB"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, process=GB), 2 * GB, 4), "bad", "-v"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, process=GB), 0, 400), "warn", "fewer"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB), 0, 4_000), "bad", "11.72 GiB of mem"),
        (lambda: doctor.check_memory(limits.Memory(8 * GB, None, GB), 0, 400), "bad", "are 1 GiB"),
        (lambda: doctor.check_descriptors(256, 1024, 8), "ok", "a limit of 256; 8 workers"),
        (lambda: doctor.check_descriptors(-1, -1, 9_999), "ok", "no limit"),
        (lambda: doctor.check_descriptors(256, 1024, 100), "bad", "ulimit -n 664"),
        (lambda: doctor.check_descriptors(256, -1, 100), "bad", "ulimit -n 664"),
        (lambda: doctor.check_descriptors(256, 300, 100), "bad", "no more than 300"),
        (lambda: doctor.check_processes(None, 100), "ok", "no limit is known"),
        (lambda: doctor.check_processes(32_768, 100), "ok", "a limit of 32,768; 100 workers"),
        (lambda: doctor.check_processes(100, 100), "bad", "have fewer --workers"),
        (lambda: doctor.check_threads({}, 4, 8), "ok", "2 for the numeric libraries"),
        (lambda: doctor.check_threads({"OMP_NUM_THREADS": "2"}, 4, 8), "ok", "OMP_NUM_THREADS=2"),
        (lambda: doctor.check_threads({"OMP_NUM_THREADS": "3"}, 4, 8), "warn", "unset OMP_NUM_"),
        (lambda: doctor.check_threads({"MKL_NUM_THREADS": "all"}, 4, 8), "warn", "unset MKL_NUM_"),
        (lambda: doctor.check_threads({"OMP_NUM_THREADS": "1,2"}, 9, 8), "ok", "would set 1"),
        (lambda: doctor.check_threads({}, 4, 8, "spawn"), "ok", "2 for the numeric libraries"),
    ],
)
def test_each_verdict_says_what_to_do(check: Callable[[], Any], verdict: str, part: str) -> None:
    found = check()
    assert found.verdict == verdict
    assert part in f"{found.found}; {found.advice}"
    assert bool(found.advice) == (verdict != "ok")


TOO_MANY = 10_000_000
"""Workers, for any machine."""


def test_the_engine_refuses_workers_that_doctor_calls_impossible() -> None:
    with pytest.raises(sharing.SharingError) as caught:
        sharing.open_engine(Nothing(), workers=TOO_MANY)
    found = json.loads(run("doctor", "--workers", TOO_MANY, "--json").out)
    lines = [f"{one['found']}: {one['advice']}" for one in found["checks"]]
    assert str(caught.value) in lines
    assert found["checks"][lines.index(str(caught.value))]["verdict"] == "bad"


@pytest.mark.parametrize(
    ("resources", "workers", "part"),
    [
        ((8 * GB, (1024, 4096), 32_768), 100, None),
        ((None, (-1, -1), None), TOO_MANY, None),
        ((8 * GB, (-1, -1), None), 4_000, "of memory at the very least, and there are 8 GiB"),
        ((None, (1024, 4096), None), 500, "need about 3,064 descriptors, and 1,024 are the limit"),
        ((None, (-1, -1), 400), 500, "500 workers are as many processes, and 400 are the limit"),
    ],
)
def test_the_first_limit_that_makes_workers_impossible_is_named(
    monkeypatch: pytest.MonkeyPatch,
    resources: tuple[int | None, tuple[int, int], int | None],
    workers: int,
    part: str | None,
) -> None:
    memory, descriptors, processes = resources
    monkeypatch.setattr(limits.Memory, "here", lambda: limits.Memory(memory))
    monkeypatch.setattr(resource, "getrlimit", lambda _: descriptors)
    monkeypatch.setattr(limits, "process_limit", lambda: processes)
    found = limits.why_impossible(workers)
    assert found is None if part is None else part in str(found)


@pytest.mark.parametrize(
    ("total", "free", "asked", "verdict", "part"),
    [
        (64 << 20, 64 << 20, 32 << 20, "ok", "64 MiB free of 64 MiB; 32 MiB are asked for"),
        (64 << 20, 64 << 20, 2 * GB, "bad", "make it larger (in a container: shm_size"),
        (64 << 20, 16 << 20, 32 << 20, "bad", "free some"),
        (64 << 20, 4 << 20, None, "bad", "free some"),
        (64 << 20, 64 << 20, None, "ok", "8 MiB should be there"),
        (0, 0, GB, "ok", "without a limit of its own"),
    ],
)
def test_shared_memory_is_held_against_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    free: int,
    asked: int | None,
    verdict: str,
    part: str,
) -> None:
    monkeypatch.setattr(os, "statvfs", room(total, free))
    monkeypatch.setattr(doctor, "SHARED_MEMORY", 8 << 20)
    found = doctor.check_shared_memory(Path("/dev/shm"), asked)
    assert found.verdict == verdict
    assert part in f"{found.found}; {found.advice}"


def test_shared_memory_that_nobody_asked_for_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "statvfs", room(GB, GB))
    monkeypatch.setattr(doctor, "SHARED_MEMORY", 2 * GB)
    assert doctor.check_shared_memory(Path("/dev/shm"), None).verdict == "warn"
    assert doctor.check_shared_memory(Path("/dev/shm"), 2 * GB).verdict == "bad"


def test_no_shared_memory_is_bad_on_linux_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for platform, verdict in (("linux", "bad"), ("darwin", "ok")):
        monkeypatch.setattr(sys, "platform", platform)
        assert doctor.check_shared_memory(tmp_path / "none", GB).verdict == verdict


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("7", 7), ("500MB", 500 << 20), ("2gb", 2 * GB), ("1.5 GiB", 3 * GB // 2), ("64m", 64 << 20)],
)
def test_a_size_is_read_as_people_write_it(text: str, nbytes: int) -> None:
    assert doctor.size(text) == nbytes


# What was left behind

MAKER = f"""
import importlib, os, signal, sys
from multiprocessing import resource_tracker
from pathlib import Path
from {cli.PACKAGE} import files
from {cli.PACKAGE}.sharing.engines.processes import host
from {cli.PACKAGE}.sharing.machine import children, memory
ends, out = sys.argv[1:]
made = host.ProcessHost(children.Launcher("spawn"), 2)._own_folder()
(made / "mutex-1").write_text("x")
with files.replacing(Path(out)) as (file,):
    file.write("half")
    file.flush()
    print(made, flush=True)
    if ends == "waits":
        sys.stdin.read()
    if ends == "in a segment":
        def end(_):
            os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        from multiprocessing import shared_memory
        shared_memory.SharedMemory.unlink = end
        memory.Memory.segment(5000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextlib.contextmanager
def maker(ends: str, out: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process that makes a folder and begins an output, and is killed, or waits till the end."""
    pipe = subprocess.PIPE
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": tempfile.gettempdir(),
    }
    command = [sys.executable, "-c", MAKER, ends, str(out)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        told = process.stdout.readline().strip()
        assert told, "it has failed"  # an empty path would be that of the project, to be removed
        folder = Path(told)
        try:
            yield process, folder
        finally:
            process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def other(path: Path, **changes: Any) -> Path:
    """A path of the same kind, with another owner in its name."""
    owner = owners.Owner.of(path)
    assert owner is not None
    changed = dataclasses.replace(owner, **changes)
    return path.with_name(path.name.replace(str(owner), str(changed)))


@pytest.fixture(autouse=True)
def segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the one that is everybody's, which no test may clean up."""
    folder = tmp_path / "segments"
    folder.mkdir()
    monkeypatch.setattr(doctor, "SEGMENTS", folder)
    return folder


def left_check(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = report("doctor", *words)["checks"][-1]
    assert found["name"] == "left behind"
    return found


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tmp_path: Path, segments: Path
) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    dead_one, live_one = maker("dies", outputs / "a.csv"), maker("waits", outputs / "b.csv")
    with dead_one as (dead, folder), live_one as (alive, folder_in_use):
        dead.wait(timeout=LIMIT)
        part, part_in_use = sorted(outputs.iterdir())
        reused = segments / owners.name()
        reused = other(reused, began=owners.me().began + 1)  # of one whose number we have now
        reused.touch()
        orphans = {folder, part, reused}
        unclear = {other(part, where="12345678"), other(reused, where="0" * 8)}
        foreign = {
            outputs / ".c.csv.part",
            outputs / ".c.csv.12345678.part",
            outputs / part.name.removeprefix("."),
            segments / "psm_12345678",
            segments / f"{owners.PREFIX}notes",
            segments / f"mine-{owners.name()}",
            other(segments / owners.name(), pid=dead.pid, began=1) / "a folder",
        }
        in_use = {part_in_use, folder_in_use, segments / owners.name()}
        for path in unclear | foreign | in_use:
            path.parent.mkdir(exist_ok=True)
            path.touch()

        found = left_check(outputs)
        assert found["verdict"] == "warn"
        assert "--clean" in found["advice"]
        assert set(found["facts"]["orphans"]) == set(map(str, orphans))
        assert set(found["facts"]["unclear"]) == set(map(str, unclear))
        assert found["facts"]["in_use"] == len(in_use)
        assert all(path.exists() for path in orphans | unclear | foreign | in_use)

        found = left_check("--clean", outputs)
        assert set(found["facts"]["removed"]) == set(map(str, orphans))
        assert found["verdict"] == "warn"  # for what is unclear
        assert not any(path.exists() for path in orphans)
        assert all(path.exists() for path in unclear | foreign | in_use)

        alive.kill()
        alive.wait(timeout=LIMIT)
        removed = left_check("--clean", outputs)["facts"]["removed"]
        assert set(removed) == {str(part_in_use), str(folder_in_use)}


def test_a_link_is_not_followed(tmp_path: Path, segments: Path) -> None:
    """Neither in the place of a folder of ours nor in that of a segment."""
    (tmp_path / "file").touch()
    dead = other(Path(owners.name()), began=owners.me().began + 1).name
    links = {segments / dead: tmp_path / "file", Path(tempfile.gettempdir(), dead): tmp_path}
    try:
        for link, target in links.items():
            link.symlink_to(target)
        assert left_check("--clean")["found"] == "nothing"
        assert all(link.is_symlink() for link in links)
    finally:
        for link in links:
            link.unlink()
    assert (tmp_path / "file").exists()


@linux
def test_a_segment_whose_owner_and_tracker_were_killed_is_found(tmp_path: Path) -> None:
    with maker("in a segment", tmp_path / "out") as (dead, folder):
        dead.wait(timeout=LIMIT)
        temporary = Path(tempfile.gettempdir())
        found = [
            one
            for one in doctor.find_left(memory.SEGMENTS, temporary, [tmp_path])
            if one.owner.pid == dead.pid
        ]
        assert [one.has_ended for one in found] == [True] * 3
        assert {one.path.parent for one in found} == {memory.SEGMENTS, temporary, tmp_path}
        assert found[0].nbytes >= 5000
        assert doctor.clean_up(found).verdict == "ok"
        assert not any(one.path.exists() for one in found)
        assert not folder.exists()


def test_a_dead_process_that_nobody_has_waited_for_has_ended(tmp_path: Path) -> None:
    with maker("dies", tmp_path / "out") as (dead, folder):
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        owner = owners.Owner.of(folder)
        assert owner is not None
        assert owner.has_ended()
        dead.wait()
        assert owner.has_ended()
    assert left_check("--clean", tmp_path)["verdict"] == "ok"


def test_this_process_has_not_ended() -> None:
    me = owners.me()
    assert me.has_ended() is False
    assert owners.Owner.of(Path(owners.name())) == me
    assert owners.Owner.of(owners.part_of(Path("x" * 300))) == me
    assert len(owners.part_of(Path("\U0001f389" * 60)).name.encode()) < 255
    assert owners.Owner(me.pid, 0, me.where).has_ended() is False  # whenever it began


@linux
def test_a_foreign_proc_proves_nothing(tmp_path: Path) -> None:
    """As in a namespace of its own, under the /proc of the one around it."""
    ended = owners.Owner(1, 2, owners.me().where)
    assert ended.has_ended() is True
    (tmp_path / "self").symlink_to("1")
    assert ended.has_ended(tmp_path) is None


def test_what_cannot_be_removed_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    owner = owners.me()
    found = doctor.clean_up([doctor.Left(tmp_path / "x", owner, 5, True)])
    assert found.verdict == "bad"
    assert found.found == f"{tmp_path}/x: Operation not permitted"
    assert found.facts["orphans"] == [f"{tmp_path}/x"]


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps")
def test_owners_are_known_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    owners._where.cache_clear()
    try:
        me = owners.me()
        assert me.began > 1_600_000_000
        assert me.has_ended() is False
        assert dataclasses.replace(me, began=me.began - 60).has_ended() is True
    finally:
        owners._where.cache_clear()


# The command


def test_doctor_ends_with_1_when_something_is_bad(segments: Path) -> None:
    fine = run("doctor")
    assert fine.code == 0, fine
    assert [line.split()[0] for line in fine.out.splitlines() if line[0] != " "] != []
    assert "left behind    nothing" in fine.out
    bad = run("doctor", "--needs", "9000TB", "--json")
    assert bad.code == 1
    assert '"verdict": "bad"' in bad.out
    bad = run("doctor", "--start-method", "clone")
    assert bad.code == 1
    assert bad.out.startswith("bad ")


def test_bad_options_of_doctor_are_refused(tmp_path: Path) -> None:
    assert "'3XB' is no size" in complaint("doctor", "--needs", "3XB")
    assert "no folder" in complaint("doctor", tmp_path / "none")
    assert "workers must be a whole number above 0" in complaint("doctor", "--workers", 0)


# Faults


def who_has_the_number_is_the_owner() -> None:
    """Don't look when a process began."""
    owners._began = lambda *_: 0


def who_is_elsewhere_has_ended() -> None:
    """Don't look where a number means anything."""
    original = owners.Owner.has_ended
    owners.Owner.has_ended = lambda self, *_: original(self) is not False  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", [who_has_the_number_is_the_owner, who_is_elsewhere_has_ended])
def test_each_fault_makes_a_test_fail(fault: Callable[[], None]) -> None:
    assert_red(fault, test_what_a_killed_process_left_is_removed_and_nothing_else, "")
