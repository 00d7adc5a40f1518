"""Uses a store until it is killed, and tells on standard output what it begins and what was acknowledged.

    python -m tests.objectstore.putter STORE WHO SEED [THREADS]      STORE: as `stores.opened` knows it

Lines are JSON: {"who", "name", "do", "etag", "mark"} before an act, the same with "done" after it.
"""

import hashlib
import json
import os
import random
import sys
import threading

from tests.objectstore.stores import opened
from trilith.kernel.errors import Fault
from trilith.objectstore.store import Object, Put, Store

NAMES = 25  # of each thread
SIZES_BYTES = (0, 1, 100, 4096, 4096, 4096, 70_000, 300_000)


def absent(before: Object | None) -> None:
    if before is not None:
        raise Fault("precondition", "It is there.")


def tell(**line: object) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


def put(store: Store, name: str, content: bytes, mark: str, is_new: bool) -> str:
    writer = store.write("a", "c", name)
    for start in range(0, len(content), 65_536):
        writer.write(content[start : start + 65_536])
    try:
        writer.commit(Put("x/y", {"mark": mark}), absent if is_new else None)
    except Fault as fault:
        return fault.kind
    return "put"


def act(store: Store, dice: random.Random, who: str) -> None:
    name, do = f"{who}/{dice.randrange(NAMES)}", dice.choices(("put", "new", "post", "delete"), (12, 3, 3, 3))[0]
    content, mark = dice.randbytes(dice.choice(SIZES_BYTES)), f"{dice.randrange(1 << 40):x}"
    told = dict(who=who, name=name, do=do, etag=hashlib.md5(content).hexdigest(), mark=mark)
    tell(**told)
    done = do
    if do in ("put", "new"):
        done = put(store, name, content, mark, do == "new")
    else:
        try:
            if do == "post":
                store.update_object("a", "c", name, lambda before: Put("x/y", {"mark": mark}))
            else:
                store.delete_object("a", "c", name)
        except Fault as fault:
            done = fault.kind
    tell(**told, done=done)


def work(store: Store, who: str, seed: str) -> None:
    dice = random.Random(f"{who} {seed}")
    while True:
        act(store, dice, who)


def main() -> None:
    kind, who, seed, *threads = sys.argv[1:]
    store = opened(kind)
    for number in range(int(threads[0]) if threads else 4):
        threading.Thread(target=work, args=(store, f"{who}-{number}", seed)).start()


if __name__ == "__main__":
    main()
