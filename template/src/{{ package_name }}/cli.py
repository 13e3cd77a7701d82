"""The command line: each module in jobs/ that has a `main` is a command.

A spawned worker imports this module again, with the script that the command started as. So
nothing slow is imported up here, and no job but the one that runs.
"""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Annotated, Any, NoReturn

PACKAGE = __name__.rpartition(".")[0]
COMMAND = PACKAGE.replace("_", "-")
STDOUT, STDERR = 1, 2  # their descriptors
#: The commands that are not in jobs/, and where they are.
OWN = {"demo": "demo", "bench": "bench.command", "doctor": "doctor"}

Report = Mapping[str, object]


@dataclass(frozen=True)
class Task:
    """What a command line asks for."""

    work: Callable[[], Report | None]
    json: bool
    show: Callable[[Report], None]
    judge: Callable[[Report], int]

    def do(self) -> int:
        """Run it, print what came out, and return the exit code."""
        if self.json:
            with _stdout_to_stderr():
                report = self.work()
            print(json.dumps(report or {}, default=str))
        else:
            report = self.work()
            self.show(report or {})
        return self.judge(report or {})


def main() -> NoReturn:
    """Run the command line that was typed."""
    _open_closed_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Only a bug gets a traceback."""
    try:
        with _ended_by_sigterm():
            task = parse(arguments)
            code = 0 if task is None else task.do()
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141
        message = _expected(error)
        if message is None:
            traceback.print_exc()
            return 1
        return _complain(message, 2 if _is_usage(error) else getattr(error, "exit_code", 1))
    return code


def jobs() -> list[str]:
    """Return the names of the modules in jobs/, without importing any."""
    package = importlib.import_module(f"{PACKAGE}.jobs")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return sorted(name for name in found if not name.startswith("_"))


def load(job: str) -> ModuleType:
    """Import one module of jobs/."""
    return importlib.import_module(f"{PACKAGE}.jobs.{job}")


def show(report: Report) -> None:
    """Print what came out, a line a value."""
    lines = []
    for name, value in report.items():
        if isinstance(value, Mapping):
            lines += [(f"{name} {key}", part) for key, part in value.items()]
        else:
            lines.append((name, value))
    labels = [name.replace("_", " ") for name, _ in lines]
    values = [f"{value:,}" if type(value) in (int, float) else str(value) for _, value in lines]
    for label, text in zip(labels, values, strict=True):
        print(f"{label:<{max(map(len, labels))}}  {text:>{max(map(len, values))}}")


def parse(arguments: Sequence[str]) -> Task | None:
    """Return what the command line asks for; None if that was only a question, now answered."""
    import typer

    app = typer.Typer(add_completion=False, help="Jobs for several processes, with shared state.")

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.")
        ] = False,
    ) -> None:
        if version:
            print(COMMAND, _version())
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit

    # Only the command that runs is built. The others are names, for --help and for "did you mean".
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    commands = {name.replace("_", "-"): name for name in jobs()}
    for command, job in commands.items():
        if wanted is None:
            summary = _summary(job)
            if summary is not None:
                app.command(command, short_help=summary)(_not_run)
        elif command != wanted:
            app.command(command)(_not_run)
        elif hasattr(load(job), "main"):
            app.command(command, help=_text(load(job)))(_command(load(job).main, show))
    for command, place in OWN.items():
        if command in commands:
            continue
        if wanted in {None, command}:
            module = importlib.import_module(f"{PACKAGE}.{place}")
            shown = getattr(module, "show", show)
            judge = getattr(module, "exit_code", _ended_well)
            # Whether so many workers can be is what doctor itself says.
            check = _check_nothing if command == "doctor" else _check_workers
            app.command(command, help=_text(module))(_command(module.main, shown, judge, check))
        else:
            app.command(command)(_not_run)

    answer = typer.main.get_command(app).main(
        args=list(arguments), prog_name=COMMAND, standalone_mode=False
    )
    return answer if isinstance(answer, Task) else None


def _not_run() -> None:
    """Stand for a command that was not asked for."""


def _summary(job: str) -> str | None:
    """Return a job's line in --help; a module that cannot be imported is no reason to fail."""
    try:
        module = load(job)
    except Exception as error:
        return _one_line(f"(cannot be imported: {type(error).__name__}: {error})")
    return _text(module).partition("\n")[0] if hasattr(module, "main") else None


def _text(module: ModuleType) -> str:
    """Return a module's docstring for typer: a line a paragraph, and [this] not as markup."""
    paragraphs = (inspect.getdoc(module) or "").split("\n\n")
    return "\n\n".join(" ".join(text.split()) for text in paragraphs).replace("[", r"\[")


def _ended_well(_report: Report) -> int:
    return 0


def _check_nothing(_options: Mapping[str, Any]) -> None:
    pass


def _check_workers(options: Mapping[str, Any]) -> None:
    """Raise `SharingError` for more workers than can be on this machine, before anything is done.

    Those of a cluster that runs already, by its address, are elsewhere.
    """
    from .sharing import SharingError
    from .sharing.machine import limits

    workers = options.get("workers")
    if workers is not None and options.get("address") is None:
        obstacle = limits.why_impossible(workers)
        if obstacle is not None:
            raise SharingError(str(obstacle))


def _command(
    function: Callable[..., Report | None],
    show: Callable[[Report], None],
    judge: Callable[[Report], int] = _ended_well,
    check: Callable[[Mapping[str, Any]], None] = _check_workers,
) -> Callable[..., Task]:
    """Return the command for a function: it takes the options as well and returns the task.

    Nothing runs inside typer, which has a way of its own with exceptions.
    """
    import typer

    from .sharing.chosen import ENGINES

    signature = inspect.signature(function, eval_str=True)
    own = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    parameters = list(own.values())

    def add(name: str, kind: type, help_text: str) -> None:
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            envvar=f"{PACKAGE}_{name}".upper(),
            help=help_text,
            rich_help_panel="How it runs",
        )
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )

    if len(own) < len(signature.parameters):
        add("engine", str, f"What the workers are: {' or '.join(ENGINES)}.")
        add("workers", int, "How many there are; left out, one a core.")
        add("start_method", str, "How they start: spawn (if left out), forkserver or fork.")
        if len(ENGINES) > 1:
            add("address", str, "Of a cluster that runs already; left out, one is started here.")
    as_json = typer.Option(
        "--json", help="Print what came out as one object.", rich_help_panel="How it runs"
    )
    if "json" not in own:
        parameters.append(
            inspect.Parameter(
                "json",
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, as_json],
            )
        )

    def command(**values: Any) -> Task:
        json = "json" not in own and values.pop("json")
        given = {name: v for name, v in values.items() if name in own or v is not None}
        chosen = {name: value for name, value in given.items() if name not in own}

        def work() -> Report | None:
            check(chosen)
            return function(**given)

        return Task(work, json, show, judge)

    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=p.KEYWORD_ONLY) for p in parameters],
        return_annotation=inspect.Signature.empty,
    )
    return command


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(COMMAND)
    except PackageNotFoundError:
        return "(not installed)"


def _is_usage(error: Exception) -> bool:
    # The base class of typer's usage errors is not public; this method of theirs is.
    return hasattr(error, "format_message")


def _expected(error: Exception) -> str | None:
    """Return the line for an error that a user can mend, None for a bug."""
    from .files import InputError
    from .sharing import JobFailed, SharingError

    if _is_usage(error):
        return f"{error.format_message().rstrip('.')}: try --help"  # type: ignore[attr-defined]
    if isinstance(error, JobFailed):
        if error.error_type == InputError.__name__:
            return error.message
        if error.traceback and not _is_os_error(error.error_type):
            print(error.traceback.rstrip(), file=sys.stderr)
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
        return ": ".join([*where, error.strerror])
    if isinstance(error, InputError | SharingError | OSError):
        return str(error) or type(error).__name__
    return None


def _is_os_error(name: str) -> bool:
    import builtins

    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, OSError)


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"{COMMAND}: {_one_line(message)}", file=sys.stderr, flush=True)
    return code


def _one_line(text: str) -> str:
    """Return text without line breaks, and what a terminal would obey shown as its code."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )


def _nobody_reads() -> bool:
    """Say whether it is our own output that is closed, as `| head` closes it."""
    poll = select.poll()
    try:
        output = sys.stdout.fileno()
    except OSError:
        return False
    poll.register(output, 0)  # errors are always reported
    closed = bool(poll.poll(0))
    if closed:
        # Python flushes once more at exit: what is left has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


def _open_closed_streams() -> None:
    """Open the null device as each of stdin, stdout and stderr that was closed by the caller.

    Python has None in their place, and the next file that is opened would get their number: what
    a worker prints would be written into it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: that stream's
            os.set_inheritable(null, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(null, mode, errors="backslashreplace"))


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what is printed meanwhile: here, and by the processes that are started."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a stream without a descriptor, in a test
            if sys.stdout.fileno() == STDOUT:
                sys.stdout.flush()
                kept = os.dup(STDOUT)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, STDOUT)
                os.dup2(STDERR, STDOUT)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind, so that unfinished files are removed, also while no engine is open."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    in_charge = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if in_charge:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if in_charge:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
