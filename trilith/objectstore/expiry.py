"""Deletes objects whose time is over. Nobody sees them any more already; this gives their room back."""

import logging
import threading
import time

from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore.store import Due, Object, Store

log = logging.getLogger(__name__)
LOOK_S = 5.0
SWEEP_S = 600.0


def expire(store: Store, now_s: float) -> int:
    """Deletes what is due; how many. Several may do it at once."""
    return sum(_deleted(store, due, now_s) for due in store.due(int(now_s)))


def _deleted(store: Store, due: Due, now_s: float) -> bool:
    def check(there: Object | None) -> None:
        if there is None or there.delete_at_s is None or there.delete_at_s > now_s:
            raise Fault("conflict", "It was given more time.")

    try:
        store.delete_object(due.account, due.container, due.name, check)
    except Fault:
        return False
    return True


def look_after(store: Store, ended: threading.Event) -> None:
    """Until `ended`: deletes what is due, and now and then what dead writers left."""
    swept_s = 0.0
    while not ended.wait(LOOK_S):
        try:
            while expire(store, time.time()):
                pass
            if time.monotonic() - swept_s > SWEEP_S:
                store.sweep()
                swept_s = time.monotonic()
        except Unavailable as error:
            log.warning("again later: %s", error)
