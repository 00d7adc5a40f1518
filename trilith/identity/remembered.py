"""What this process remembers of identity's rows, as long as none of them has changed.

Tables of identity are declared with ``info=STAMPED``: each transaction that changes one of them leaves a new stamp
(see `Tx.stamp`). What was worked out under a stamp is right as long as that stamp is read, in any process on any
controller; so one small row is read for each token instead of the people, the roles, and what implies them. A revision
of the schema that changes such rows has to leave a new stamp too.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from trilith.kernel.store import Tx

T = TypeVar("T")
NAME = "identity"
STAMPED = {"stamp": NAME}
LIMIT = 4096  # then it begins anew

_kept: dict[Hashable, tuple[str, Any]] = {}


def remembered(tx: Tx, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gave under the present stamp, or gives now. Callers share it: nobody may change it. Safe for many
    threads: each step is one operation on the dictionary."""
    stamp = tx.stamp(NAME)
    if not stamp:  # this transaction itself has changed something
        return make()
    known = _kept.get(key)
    if known is not None and known[0] == stamp:
        found: T = known[1]
        return found
    found = make()
    if len(_kept) >= LIMIT:
        _kept.clear()
    _kept[key] = (stamp, found)
    return found
