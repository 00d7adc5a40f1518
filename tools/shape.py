"""Checks the shape of the tree: what is decided about it and no other linter knows.

    python -m tools.shape [DIRECTORY]      one line for each finding, exit status 1 when there is any

Import direction (kernel <- services <- agent, cluster, cli; drivers know only kernel.errors), sizes of files, names
that say nothing, `except Exception` outside its two places, mocks, notes to oneself, paths of one machine, URLs in lock
files.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICES = {
    "identity", "image", "compute", "network", "volume", "objectstore",
    "placement", "orchestration", "loadbalancer", "telemetry",
}  # fmt: skip
TOP = {"agent", "cluster", "cli"}  # may import everything below them
CHECKED = ("trilith", "tests", "tools", "guest")
MAX_LINES, MAX_DRIVER_LINES, MAX_KERNEL_LINES = 600, 2000, 4000
BANNED_IN_FILE_NAMES = {"manager", "helper", "helpers", "util", "utils", "common", "base", "misc", "impl", "handler"}
BANNED_IN_NAMES = {"helper", "helpers", "util", "utils", "misc", "impl"}
MAY_CATCH_ALL = {"trilith/kernel/http.py", "trilith/kernel/reconcile.py"}
NOTES = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|opt/pypi|opt/wheels|root/\.(pyenv|cache|config)|home/\w+|var/tmp/\w)")
THIS = "tools/shape.py"
ITS_TEST = "tests/test_shape.py"

Finding = tuple[str, int, str]


def check(root: Path) -> list[Finding]:
    """Every finding under `root`: (path relative to it, line, sentence), in the order of paths."""
    findings: list[Finding] = []
    kernel_lines = 0
    for path in sorted(p for top in CHECKED for p in (root / top).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        text = path.read_text()
        lines = text.count("\n")
        if name.startswith("trilith/kernel/"):
            kernel_lines += lines
        found = [*size(name, lines), *file_name(name)]
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            found.append((error.lineno or 0, f"is not Python: {error.msg}"))
        else:
            found += [*imports(name, tree), *names(tree), *catches(name, tree), *mocks(tree)]
        if name not in (THIS, ITS_TEST):
            found += words(text)
        findings += [(name, line, sentence) for line, sentence in found]
    if kernel_lines > MAX_KERNEL_LINES:
        findings.append(
            ("trilith/kernel", 0, f"has {kernel_lines} lines in all, at most {MAX_KERNEL_LINES} are allowed")
        )
    return findings + [finding for lock in sorted(root.glob("*.lock")) for finding in urls(lock)]


def size(name: str, lines: int) -> Iterator[tuple[int, str]]:
    limit = MAX_DRIVER_LINES if name.startswith("trilith/drivers/") else MAX_LINES
    if lines > limit:
        yield 0, f"has {lines} lines, at most {limit} are allowed"


def file_name(name: str) -> Iterator[tuple[int, str]]:
    for part in name.removesuffix(".py").split("/"):
        for word in BANNED_IN_FILE_NAMES & set(part.split("_")):
            yield 0, f"is named {word}, which does not say what it does"


def imported(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module of the project that a file imports, as far as one can tell without running it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = name.removesuffix(".py").split("/")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            if module.count(".") < 2:  # from trilith.kernel import errors
                for alias in node.names:
                    yield node.lineno, f"{module}.{alias.name}"
            else:
                yield node.lineno, module


def imports(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    parts = name.split("/")
    if parts[0] != "trilith" or len(parts) < 3:
        return
    own = parts[1]
    for line, module in imported(name, tree):
        target = module.split(".")
        if target[0] == "trilith" and len(target) > 1 and not may_import(own, target):
            yield line, f"{own} may not import {module}"


def may_import(own: str, target: list[str]) -> bool:
    other, module = target[1], target[2] if len(target) > 2 else ""
    if own == other or own in TOP or other.startswith("__"):
        return True
    if own == "drivers":
        return (other, module) == ("kernel", "errors")
    if own in SERVICES:
        return other == "kernel" or (other in SERVICES and not module.endswith("_plan"))
    return False  # the kernel knows nobody


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            banned = BANNED_IN_NAMES | ({"manager"} if isinstance(node, ast.ClassDef) else set())  # a role is called so
            in_words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower().split("_")
            for word in banned & set(in_words):
                yield node.lineno, f"{node.name} is named {word}, which does not say what it does"


def catches(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler) or name in MAY_CATCH_ALL:
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        for one in caught:
            if one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")):
                yield node.lineno, "catches everything: name the errors that are expected"


def mocks(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules = [f"{node.value.id}.{node.attr}"]
        if any(module.startswith(("unittest.mock", "mock.patch")) for module in modules):
            yield node.lineno, "mocks: use the real thing, or the driver's fake"  # type: ignore[attr-defined]


def words(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := NOTES.search(line):
            yield number, f"{found[0]}: do it, or leave it out"
        if found := MACHINE_PATHS.search(line):
            yield number, f"{found[0]} is a path of one machine"


def urls(lock: Path) -> Iterator[Finding]:
    for number, line in enumerate(lock.read_text().splitlines(), 1):
        if "://" in line:
            yield lock.name, number, "a lock file names no registry: pip's own configuration does"


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    findings = check(root)
    for path, line, sentence in findings:
        print(f"{path}:{line}: {sentence}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
