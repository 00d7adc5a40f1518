"""Writes revisions of the schema: what the declarations have and the revisions do not make yet, and the other way.

    python -m tools.revision TITLE      new modules in trilith/cluster/schema/revisions: one that adds, one that removes
    python -m tools.revision --first    makes all anew, as if there had never been any: only before the first release
    python -m tools.revision --check [URL]    exit status 1 when they differ; an empty database of any kind, else SQLite

Read what it has written: a renamed column is one that goes and one that comes, and its values are yours to copy.
"""

import argparse
import ast
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import ops

from trilith.cluster import services
from trilith.cluster.schema import migrate, revisions
from trilith.kernel.store import METADATA, Store

DIRECTORY = Path(revisions.__file__).parent
HEAD = '''"""{title}."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "{phase}"


def upgrade() -> None:
'''


def same_type(context: Any, inspected: Any, declared: Any, found: Any, wanted: Any) -> bool | None:
    """False: equal, whatever Alembic thinks. MariaDB keeps JSON as text."""
    if isinstance(wanted, sa.JSON) and isinstance(found, sa.Text):
        return False
    return None


def difference(url: str) -> list[Any]:
    """The operations that lead from what the revisions make to what the declarations say."""
    store = Store(url)
    try:
        migrate.prepare(store, "revision", "here")
        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": same_type})
            script = produce_migrations(context, METADATA)
            assert script.upgrade_ops is not None
            return flat(script.upgrade_ops.ops)
    finally:
        store.close()


def flat(found: list[Any]) -> list[Any]:
    return [part for op in found for part in (flat(op.ops) if isinstance(op, ops.ModifyTableOps) else [op])]


def adds(op: Any) -> bool:
    return isinstance(op, ops.CreateTableOp | ops.AddColumnOp | ops.CreateIndexOp)


def write(number: int, title: str, phase: str, found: list[Any]) -> Path:
    body = render_python_code(
        ops.UpgradeOps(found),
        sqlalchemy_module_prefix="sa.",
        alembic_module_prefix="steps.",
        render_item=long_text,
        migration_context=MigrationContext.configure(dialect_name="sqlite"),
    )
    body = re.sub(r"steps\.f\(('[^']*')\)", r"\1", body.replace(", nullable=True)", ")"))
    lines = [line.removeprefix("    ") for line in body.splitlines() if not line.lstrip().startswith("#")]
    lines = with_indexes("\n".join(lines)).splitlines()
    word = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    path = DIRECTORY / f"r{number:04}_{word}.py"
    path.write_text(HEAD.format(title=title.capitalize(), phase=phase) + textwrap.indent("\n".join(lines), "    "))
    for command in (["format", "--quiet"], ["check", "--quiet", "--fix"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(path)], check=True)
    return path


def with_indexes(body: str) -> str:
    """The indexes of new tables as parts of those: on MariaDB that is one statement, which takes half as long."""
    kept: list[ast.stmt] = []
    made: dict[str, ast.Call] = {}
    for step in ast.parse(body).body:
        call = step.value if isinstance(step, ast.Expr) and isinstance(step.value, ast.Call) else None
        does, *names = (ast.unparse(part) for part in (call.func, *call.args)) if call is not None else ("",)
        if call is not None and does == "steps.create_table":
            made[names[0]] = call
        if call is not None and does == "steps.create_index" and names[1] in made:
            unique = [word for word in call.keywords if ast.unparse(word) == "unique=True"]
            index = ast.Call(ast.parse("steps.Index", mode="eval").body, [call.args[0], call.args[2]], unique)
            made[names[1]].args.append(index)
        else:
            kept.append(step)
    return "\n".join(map(ast.unparse, kept))


def long_text(kind: str, item: Any, context: Any) -> str | Literal[False]:
    return "steps.LONG_TEXT" if kind == "type" and isinstance(item, sa.Text) else False


def write_first(found: list[Any]) -> list[Path]:
    """One revision for each service's tables, which are named after it."""
    for old in DIRECTORY.glob("r*.py"):
        old.unlink()
    by_service: dict[str, list[Any]] = {"kernel": []}
    for op in found:
        prefix = op.table_name.partition("_")[0]
        by_service.setdefault(prefix if prefix in services.SERVICES else "kernel", []).append(op)
    names = ["kernel", *sorted(by_service.keys() - {"kernel"})]
    return [write(n, f"first tables of {name}", "expand", by_service[name]) for n, name in enumerate(names, 1)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.revision", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("title", nargs="?", help="what changes, in a few words")
    parser.add_argument("--first", action="store_true", help="make all revisions anew")
    parser.add_argument("--check", nargs="?", const="", metavar="URL", help="say whether anything is missing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/db.sqlite"
        if asked.first:
            migrate.known = lambda: [migrate.Revision("r0000", "expand", lambda: None)]
            paths = write_first(ordered(difference(url)))
        elif asked.check is not None:
            found = difference(asked.check or url)
            for op in found:
                print(f"not in the revisions: {op.to_diff_tuple()}; to write one: python -m tools.revision TITLE")
            return 1 if found else 0
        else:
            if not asked.title:
                parser.error("say what changes: python -m tools.revision 'servers have a colour'")
            found = difference(url)
            number = max((int(path.name[1:5]) for path in DIRECTORY.glob("r*.py")), default=0) + 1
            phases = {"expand": [op for op in found if adds(op)], "contract": [op for op in found if not adds(op)]}
            titles = {"expand": asked.title, "contract": f"{asked.title}, what goes"}
            wanted = [phase for phase, part in phases.items() if part]
            paths = [write(number + n, titles[phase], phase, phases[phase]) for n, phase in enumerate(wanted)]
    for path in paths:
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return 0


def ordered(found: list[Any]) -> list[Any]:
    """By table, and each table before its indexes, so that the files stay the same when nothing has changed."""
    return sorted(
        found, key=lambda op: (op.table_name, not isinstance(op, ops.CreateTableOp), str(op.to_diff_tuple()[0]))
    )


if __name__ == "__main__":
    sys.exit(main())
