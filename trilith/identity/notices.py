"""What keystone's listeners are told, in its basic format: which thing was made, changed or deleted, by its id."""

from collections.abc import Iterator
from typing import Any

from trilith.identity.versions import IDENTITY
from trilith.kernel.declare import Noun
from trilith.kernel.notices import Event, Notices, tell
from trilith.kernel.store import Tx

Row = dict[str, Any]
TOLD = ("user", "project", "role", "group", "domain", "region", "service", "endpoint", "application_credential")


def events(tx: Tx, noun: Noun, old: Row | None, new: Row | None) -> Iterator[Event]:
    if noun.name in TOLD:
        what = "created" if old is None else "deleted" if new is None else "updated"
        yield f"identity.{noun.name}.{what}", {"resource_info": (new or old or {})["id"]}


def tell_assignment(tx: Tx, what: str, row: Row, actor: str, target: str) -> None:
    """That a role was given or taken away. `what`: created, deleted; `row`: of relations.ASSIGNMENT."""
    payload = {"role": row["role_id"], actor: row["actor_id"], target: row["target_id"]}
    tell(tx, IDENTITY, f"identity.role_assignment.{what}", payload | {"inherited_to_projects": row["inherited"]})


IDENTITY.notices = Notices("keystone", "identity", events)
