"""What neutron's listeners are told: ``network.create.end`` and the like, with what the API shows an administrator."""

from collections.abc import Iterator
from typing import Any

from trilith.kernel.declare import Noun
from trilith.kernel.notices import Event, Notices
from trilith.kernel.policy import Principal
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.network.versions import NETWORKING

Row = dict[str, Any]
VIEWER = Principal(user_id="", roles=frozenset({"admin", "reader"}))
BOOKKEEPING = dict.fromkeys(("revision_number", "updated_at"))  # what changes with everything


def events(tx: Tx, noun: Noun, old: Row | None, new: Row | None) -> Iterator[Event]:
    if new is None:
        yield f"{noun.name}.delete.end", _shown(tx, noun, old) | {f"{noun.name}_id": (old or {})["id"]}
        return
    after = _shown(tx, noun, new)
    if old is None:
        yield f"{noun.name}.create.end", after
    elif _shown(tx, noun, old)[noun.name] | BOOKKEEPING != after[noun.name] | BOOKKEEPING:
        yield f"{noun.name}.update.end", after


def _shown(tx: Tx, noun: Noun, row: Row | None) -> Row:
    ctx = Ctx(tx.store, NETWORKING, "GET", noun.path, "", "", who=VIEWER, _tx=tx)
    return {noun.name: ctx.show(noun, dict(row or {}))}


NETWORKING.notices = Notices("neutron", "network", events)
