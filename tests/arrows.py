"""Who imports what in the package of a project, and who must not: see `broken`."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: What each part of `sharing` may import of its parts.
ARROWS = {
    "errors": set[str](),
    "machine": {"machine", "errors"},
    "options": set(),
    "patterns": {"machine", "patterns", "errors", "options"},
    "chosen": {"patterns", "errors"},
    "engines": {"machine", "patterns", "engines", "chosen", "errors", "options"},
    "__init__": {"patterns", "engines", "errors", "options"},
}
#: Files elsewhere that import more than what `sharing` itself offers; jobs never do.
TOOLS = {
    "bench/command.py": {"chosen", "engines.engine"},
    "bench/record.py": {"engines.engine"},
    "cli.py": {"chosen", "machine.limits"},
    "demo.py": {"machine.owners"},
    "doctor.py": {
        *("chosen", "engines.processes.engine"),
        *("machine.lifeline", "machine.limits", "machine.memory", "machine.owners"),
    },
    "files.py": {"machine.owners"},
}
#: Names with an underscore that others than their module use, by the object that they are of.
#: What is not documented is of `multiprocessing`, which offers no other way to it.
PRIVATE = {
    "os._exit",  # documented
    "current._config",  # where a process has its folder of sockets
    "current._inheriting",  # whether a child imports the main module
    "self._process._popen",  # how a child that nobody can wait for has ended
    "block._state",  # where in shared memory a block lies
    "segment._fd",  # the descriptor of a segment
}
#: Methods of every NamedTuple, which are public.
OF_TUPLES = {"_replace", "_asdict"}
#: An object's own attributes may come from a base of another module.
SELF = {"self", "cls"}


class Use(NamedTuple):
    """Something of another module that a file uses.

    Attributes:
        path: the file, from the package on.
        what: a module, without the package's name where it is one of the package; or a name
            with an underscore, as it is written.
        is_private: whether it is such a name.
        is_own: whether it is a module of the package.
    """

    path: str
    line: int
    what: str
    is_private: bool
    is_own: bool


def package_of(path: Path) -> Path:
    """Return the outermost package that a file is in."""
    return [one for one in path.parents if (one / "__init__.py").exists()][-1]


def written(node: ast.expr) -> str:
    """Return the name in a text; what an f-string fills in is "*"."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "*"


def modules_in(node: ast.AST, package: Path, path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a node of a file imports."""
    folder = path.parent.relative_to(package.parent).parts

    def full(name: str, level: int) -> str:
        above = folder[: len(folder) + 1 - level] if level else ()
        return ".".join([*above, *([name] if name else [])])

    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = full(node.module or "", node.level)
        for alias in node.names:
            inner = package.parent / module.replace(".", "/") / alias.name
            is_module = inner.is_dir() or inner.with_suffix(".py").exists()
            yield f"{module}.{alias.name}" if is_module else module
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        name = written(node.args[0])
        plain = name.lstrip(".")
        yield full(plain, len(name) - len(plain))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined_in(tree: ast.Module) -> set[str]:
    """Return the names with an underscore that a module defines, be it of its objects alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner, _, name = ast.unparse(node).rpartition(".")
            if owner in {"", *SELF}:
                found.add(name)
    return {name for name in found if is_private(name)}


def private_uses(tree: ast.Module, imported: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the attributes with an underscore that are of objects of another module."""
    own = defined_in(tree) | OF_TUPLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner, name = ast.unparse(node.value), node.attr
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"getattr", "setattr", "hasattr", "delattr"}
            and isinstance(node.args[1], ast.Constant)
        ):
            owner, name = ast.unparse(node.args[0]), str(node.args[1].value)
        else:
            continue
        is_foreign = name not in own or owner.split(".")[0] in imported
        if is_private(name) and is_foreign and owner not in SELF:
            yield node.lineno, f"{owner}.{name}"


def uses_of(path: Path) -> Iterator[Use]:
    """Yield what a file imports, and what it uses of others that has an underscore."""
    package = package_of(path)
    tree = ast.parse(path.read_text("utf-8"))
    here = str(path.relative_to(package))
    imported: set[str] = set()
    for node in ast.walk(tree):
        for module in sorted(set(modules_in(node, package, path))):
            is_own = module.split(".")[0] == package.name
            what = module.removeprefix(f"{package.name}.") if is_own else module
            line = getattr(node, "lineno", 0)
            yield Use(here, line, what, any(map(is_private, what.split("."))), is_own)
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                imported.add(alias.asname or alias.name.split(".")[0])
                if isinstance(node, ast.ImportFrom) and is_private(alias.name):
                    yield Use(here, node.lineno, alias.name, True, False)
    for line, what in private_uses(tree, imported):
        yield Use(here, line, what, True, False)


def is_allowed(use: Use) -> bool:
    if use.is_private:
        return use.what in PRIVATE
    if not use.is_own:
        return True
    place, _, rest = use.path.removesuffix(".py").partition("/")
    top, _, inside = use.what.partition(".")
    if place == "sharing":
        part = inside.partition(".")[0]
        return top == "sharing" and part in ARROWS[rest.partition("/")[0]]
    return top != "sharing" or not inside or inside in TOOLS.get(use.path, ())


def broken(package: Path) -> list[str]:
    """Name each line of a package that uses what it must not.

    `machine` knows nothing of patterns and engines, and `patterns` nothing of engines; what is
    not of `sharing` imports nothing but `sharing`, and a name with an underscore, be it an
    attribute of an object, stays in the module that defines it.
    """
    return [
        f"{use.path}:{use.line}: {'uses' if use.is_private else 'imports'} {use.what}"
        for path in sorted(package.rglob("*.py"))
        for use in uses_of(path)
        if not is_allowed(use)
    ]
