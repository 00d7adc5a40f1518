"""The object store of a cluster: everything in RADOS, written by several controllers at once.

Bytes are written first, then the object's key in its container, which is what makes it an object. What it replaced
stays for an hour, because somebody may be reading it.
"""

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from trilith.kernel.errors import Fault, Unavailable
from trilith.objectstore import rados_records as r
from trilith.objectstore.listing import Span, listing
from trilith.objectstore.rados_blobs import Blobs, NewBlob, Whose
from trilith.objectstore.rados_records import Box, Entry, Gone, Home, Rados, Records, View
from trilith.objectstore.store import (
    CHUNK_BYTES,
    Account,
    Changes,
    Check,
    Container,
    Due,
    Object,
    Page,
    Put,
    StorageFull,
    Subdir,
)

T = TypeVar("T")
READERS_S = 3600.0  # that replaced bytes stay; also how old a container must be that nobody knows
AT_ONCE = 16  # containers that are asked for their counts
LATE_S = 3600.0  # after which a container is not asked again for what ended then
BARRED_S = 7 * 86400.0  # that a dead session is remembered
KNOWN_BOXES = 10_000
TRIES = 20


class _NotRemembered(Fault):
    """An object gets a time that nobody would look for."""

    def __init__(self, at_s: int | None) -> None:
        super().__init__("bug", "The time of an object was not remembered.")
        self.at_s = at_s


class RadosStore:
    """A `Store` in one pool."""

    def __init__(self, rados: Rados) -> None:
        self._rados = rados
        self._records = Records(rados)
        self._blobs = Blobs(self._records)
        self._known: dict[tuple[str, str], str] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE)

    # accounts

    def account(self, account: str) -> Account | None:
        found = self._rados.values(r.account_at(account), [r.HEAD])
        if found is None or r.HEAD not in found[0]:
            return None
        home = r.as_home(found[0][r.HEAD])
        boxes = self._boxes(value.decode() for _, value in self._records.each(r.account_at(account), r.CONTAINER))
        counts = (len(boxes), sum(box.object_count for box in boxes), sum(box.size_bytes for box in boxes))
        return Account(account, home.timestamp_us, home.headers, *counts)

    def _boxes(self, ids: Iterator[str]) -> list[Box]:
        """Those that are not being deleted."""
        found = self._pool.map(lambda box_id: self._rados.values(r.box_at(box_id), [r.HEAD]), ids)
        boxes = [r.as_box(each[0][r.HEAD]) for each in found if each and r.HEAD in each[0]]
        return [box for box in boxes if not box.is_closed]

    def update_account(self, account: str, changes: Changes) -> Account:
        def apply(view: View) -> None:
            home = self._home(view, account)
            view.set(r.HEAD, r.encode(Home(home.name, home.timestamp_us, r.merged(home.headers, changes))))

        self._change_account(account, [r.HEAD], apply)
        found = self.account(account)
        if found is None:
            raise Unavailable(f"The account {account} was deleted meanwhile.")
        return found

    def _home(self, view: View, account: str) -> Home:
        """The account, which is made if need be."""
        head = view.get(r.HEAD)
        if head is None:
            view.set(r.HEAD, r.encode(Home(account, r.now_us())))
        return r.as_home(view.get(r.HEAD) or b"")

    def _change_account(self, account: str, keys: Sequence[bytes], apply: Callable[[View], T]) -> T:
        at = r.account_at(account)
        for _ in range(TRIES):
            try:
                return self._records.change(at, keys, apply)
            except Gone:
                self._rados.create(at, {})
        raise Unavailable(f"The account {account} is being deleted all the time.")

    def delete_account(self, account: str) -> None:
        at = r.account_at(account)
        found = self.account(account)
        if found is None:
            raise Fault("missing", f"There is no account {account}.")
        if found.container_count:
            raise Fault("conflict", f"The account {account} has containers; delete these first.")
        # not the object itself: a container may be coming
        self._records.change(at, [r.HEAD], lambda view: view.set(r.HEAD, None))

    def list_containers(self, account: str, page: Page) -> Sequence[Container | Subdir]:
        def scan(span: Span, limit: int, reverse: bool) -> list[Container]:
            found: list[Container] = []
            while len(found) < limit:
                wanted = limit - len(found)
                part = self._scan(r.account_at(account), r.CONTAINER, span, wanted, reverse)
                found += [box.told(False) for box in self._boxes(value.decode() for _, value in part)]
                if len(part) < wanted:
                    break
                last = part[-1][0]
                span = Span(span.lower, span.inclusive, last) if reverse else Span(last, False, span.upper)
            return found

        return listing(page, scan)

    # containers

    def container(self, account: str, container: str) -> Container | None:
        box_id = self._box_id(account, container, fresh=True)
        found = self._boxes(iter([box_id])) if box_id else []
        return found[0].told(True) if found else None

    def create_container(self, account: str, container: str, changes: Changes) -> bool:
        for _ in range(TRIES):
            try:
                self.update_container(account, container, changes)
                return False
            except Fault as fault:
                if fault.kind != "missing":
                    raise
            if self._make_container(account, container, changes):
                return True
        raise Unavailable(f"The container {container} is being made and deleted all the time.")

    def _make_container(self, account: str, container: str, changes: Changes) -> bool:
        """False if somebody else was faster."""
        box_id, made_us = secrets.token_hex(8), r.now_us()
        box = Box(account, container, made_us, made_us, r.merged({}, changes))
        self._records.register(r.CONTAINERS, {box_id.encode(): r.encode([account, container, made_us])})
        self._rados.create(r.box_at(box_id), {r.HEAD: r.encode(box)})
        wanted = r.key(r.CONTAINER, container)

        def apply(view: View) -> bool:
            if view.get(wanted) is not None:
                return view.get(wanted) == box_id.encode()
            self._home(view, account)
            view.set(wanted, box_id.encode())
            return True

        is_made = self._change_account(account, [r.HEAD, wanted], apply)
        if not is_made:
            self._remove_box(account, container, box_id)
        return is_made

    def update_container(self, account: str, container: str, changes: Changes) -> Container:
        def apply(view: View) -> Container:
            box = view.box()
            box.headers = r.merged(box.headers, changes)
            box.changed_us = max(r.now_us(), box.changed_us + 10)
            view.set(r.HEAD, r.encode(box))
            return box.told(True)

        return self._in_box(account, container, lambda at: self._records.change(at, [r.HEAD], apply))

    def delete_container(self, account: str, container: str) -> None:
        def apply(view: View) -> None:
            box = view.box()
            if box.object_count:
                raise Fault("conflict", f"The container {container} has objects; delete these first.")
            box.is_closed = True
            view.set(r.HEAD, r.encode(box))

        box_id = self._in_box(account, container, lambda at: (self._records.change(at, [r.HEAD], apply), at[2:])[1])
        self._remove_box(account, container, box_id)

    def _remove_box(self, account: str, container: str, box_id: str) -> None:
        """One that is closed, or that the account does not have. May be done again."""
        self._known.pop((account, container), None)
        wanted = r.key(r.CONTAINER, container)

        def apply(view: View) -> None:
            if view.get(wanted) == box_id.encode():
                view.set(wanted, None)

        self._change_account(account, [wanted], apply)
        garbage = self._records.each(r.box_at(box_id), r.GARBAGE)
        if garbage:
            self._records.register(r.ORPHANS, dict(garbage))
        self._rados.remove(r.box_at(box_id))
        self._records.register(r.CONTAINERS, {box_id.encode(): None})

    def list_objects(self, account: str, container: str, page: Page) -> Sequence[Object | Subdir]:
        def ask(at: str) -> Sequence[Object | Subdir]:
            def scan(span: Span, limit: int, reverse: bool) -> list[Object]:
                found = self._scan(at, r.OBJECT, span, limit, reverse)
                return [r.as_entry(value).told(name, False) for name, value in found]

            self._open_box(at)
            return listing(page, scan)

        return self._in_box(account, container, ask)

    def _scan(self, at: str, kind: bytes, span: Span, limit: int, reverse: bool) -> list[tuple[str, bytes]]:
        """Keys run forward only: a list that runs backward reads all of its span."""
        after = kind
        if span.lower is not None:
            lower = r.key(kind, span.lower)
            after = r.before(lower) if span.inclusive else lower
        found: deque[tuple[str, bytes]] = deque(maxlen=limit if reverse else None)
        is_over = limit == 0
        while not is_over:
            part = self._rados.range(at, after, kind, 1000 if reverse else limit - len(found))
            if part is None:
                break
            for each, value in part[0]:
                name = r.name_of(each)
                if span.upper is not None and name >= span.upper:
                    is_over = True
                    break
                if span.has(name):
                    found.append((name, value))
                after = each
            is_over = is_over or not part[1] or not part[0] or (not reverse and len(found) >= limit)
        return list(reversed(found)) if reverse else list(found)

    def _box_id(self, account: str, container: str, fresh: bool = False) -> str | None:
        known = None if fresh else self._known.get((account, container))
        if known is None:
            wanted = r.key(r.CONTAINER, container)
            found = self._rados.values(r.account_at(account), [wanted])
            known = found[0][wanted].decode() if found and wanted in found[0] else None
            if known is not None:
                if len(self._known) >= KNOWN_BOXES:
                    self._known.clear()
                self._known[account, container] = known
        return known

    def _in_box(self, account: str, container: str, ask: Callable[[str], T]) -> T:
        """What `ask` says of a container's object. `Fault("missing")` when it is not there."""
        tried = ""
        for fresh in (False, True, True):
            box_id = self._box_id(account, container, fresh)
            if box_id is None:
                break
            if box_id == tried:  # it is being deleted, perhaps by somebody who died
                self._remove_box(account, container, box_id)
                break
            try:
                return ask(r.box_at(box_id))
            except Gone:
                tried = box_id
                self._known.pop((account, container), None)
        raise Fault("missing", f"There is no container {container}.")

    def _open_box(self, at: str) -> Box:
        found = self._rados.values(at, [r.HEAD])
        if found is None:
            raise Gone
        return View(found[0]).box()

    # objects

    def write(self, account: str, container: str, name: str) -> "RadosWriter":
        return RadosWriter(self, account, container, name)

    def new_blob(self) -> NewBlob:
        return NewBlob(self._blobs, self._records)

    def whose(self, account: str, container: str, name: str) -> Whose:
        """`Fault("missing")`."""
        return Whose(self._in_box(account, container, lambda at: (self._open_box(at), at[2:])[1]), name)

    def object(self, account: str, container: str, name: str) -> Object | None:
        found = self._entry(account, container, name)
        return found.told(name) if found else None

    def _entry(self, account: str, container: str, name: str) -> Entry | None:
        wanted = r.key(r.OBJECT, name)

        def ask(at: str) -> Entry | None:
            found = self._rados.values(at, [wanted])
            if found is None:
                raise Gone
            return r.as_entry(found[0][wanted]) if wanted in found[0] else None

        try:
            return self._in_box(account, container, ask)
        except Fault:
            return None

    def open(self, account: str, container: str, name: str) -> "RadosReader | None":
        found = self.object(account, container, name)
        return RadosReader(found, self._blobs) if found else None

    def change_object(
        self, whose: Whose, act: Callable[[Entry | None], Entry | None], session: str = ""
    ) -> Entry | None:
        """One step: `act` says what takes the place of what is there; `session`: whose bytes it then has. `Gone`."""
        wanted, barred = r.key(r.OBJECT, whose.name), r.BARRED + session.encode()

        def apply(view: View) -> Entry | None:
            view.box()
            if view.get(barred) is not None:
                raise Unavailable("This process stood still for too long; put the object again.")
            was = view.entry(whose.name)
            made = act(was)
            view.put(whose.name, was, made)
            return made if made is not None else was

        return self._records.change(r.box_at(whose.box_id), [r.HEAD, wanted, barred], apply)

    def update_object(
        self, account: str, container: str, name: str, change: Callable[[Object], Put], check: Check | None = None
    ) -> Object:
        def act(was: Entry | None) -> Entry:
            if was is None:
                raise Fault("missing", f"There is no object {name}.")
            if check is not None:
                check(was.told(name))
            put = change(was.told(name))
            if put.delete_at_s not in (None, was.delete_at_s, *remembered):
                raise _NotRemembered(put.delete_at_s)
            return was.described(put, newer(name, was, put))

        remembered: list[int | None] = []
        while True:
            try:
                return self._object(account, container, name, act)
            except _NotRemembered as unknown:
                self._in_box(account, container, lambda at, ends=unknown.at_s: self.remember_end(at[2:], ends))  # type: ignore[misc]
                remembered.append(unknown.at_s)

    def delete_object(self, account: str, container: str, name: str, check: Check | None = None) -> Object:
        def act(was: Entry | None) -> None:
            if was is None:
                raise Fault("missing", f"There is no object {name}.")
            if check is not None:
                check(was.told(name))

        return self._object(account, container, name, act)

    def _object(self, account: str, container: str, name: str, act: Callable[[Entry | None], Entry | None]) -> Object:
        found = self._in_box(account, container, lambda at: self.change_object(Whose(at[2:], name), act))
        assert found is not None
        return found.told(name)

    # for whoever looks after the store

    def due(self, now_s: int, limit: int = 1000) -> Sequence[Due]:
        """Asks the containers that objects with such a time were put into."""
        ended: dict[str, list[bytes]] = {}
        for each, _ in self._records.each(r.ENDINGS, b""):
            if int(each[:12]) > now_s:
                break
            ended.setdefault(each[12:].decode(), []).append(each)
        found: list[Due] = []
        for box_id, part in zip(ended, self._pool.map(self._ends_in, ended), strict=True):
            due = [(end_s, name) for end_s, name in part if end_s <= now_s]
            boxes = self._boxes(iter([box_id])) if due else []
            found += [Due(box.account, box.name, name, end_s) for box in boxes for end_s, name in due]
            over = [each for each in ended[box_id] if int(each[:12]) < now_s - LATE_S]
            if over and not due:
                self._rados.change(r.ENDINGS, dict.fromkeys(over))
        return sorted(found, key=lambda each: each.delete_at_s)[:limit]

    def remember_end(self, box_id: str, delete_at_s: int | None) -> None:
        """Before an object gets this time, so that `due` looks there; the minute is enough."""
        if delete_at_s is not None:
            minute = max(delete_at_s, 0) // 60 * 60
            self._records.register(r.ENDINGS, {f"{minute:012d}{box_id}".encode(): b"-"})

    def _ends_in(self, box_id: str) -> list[tuple[int, str]]:
        part = self._rados.range(r.box_at(box_id), r.ENDS, r.ENDS, 1000)
        names = [r.name_of(each) for each, _ in part[0]] if part else []
        return [(int(name[:12]), name[12:]) for name in names]

    def sweep(self) -> int:
        """What dead processes left, what was replaced an hour ago, and containers that nobody knows."""
        return self._sweep_sessions() + self._sweep_garbage() + self._sweep_boxes()

    def _sweep_sessions(self) -> int:
        count = 0
        for session, left in self._blobs.dead():
            for blob, whose in left:
                # from now on it cannot become an object's, should its writer only have stood still
                self._rados.change(
                    r.box_at(whose.box_id), {r.BARRED + session.encode(): str(int(time.time())).encode()}
                )
                found = self._records.entry(*whose)
                if found is None or found.blob != blob:
                    self._blobs.remove(blob)
                    count += 1
            self._blobs.forget(session)
        return count

    def _sweep_garbage(self) -> int:
        count = 0
        for at in [r.ORPHANS, *(r.box_at(each.decode()) for each, _ in self._records.each(r.CONTAINERS, b""))]:
            for garbage in r.garbage_in(self._records.each(at, r.GARBAGE), time.time() - READERS_S):
                self._blobs.remove(garbage.blob, garbage.piece_count)
                self._rados.change(at, {garbage.key: None})
                count += 1
            barred = [each for each, since in self._records.each(at, r.BARRED) if int(since) < time.time() - BARRED_S]
            if barred:
                self._rados.change(at, dict.fromkeys(barred))
        return count

    def _sweep_boxes(self) -> int:
        count = 0
        for found, value in self._records.each(r.CONTAINERS, b""):
            account, container, made_us = msgspec.json.decode(value, type=tuple[str, str, int])
            box_id = found.decode()
            if made_us / 1e6 > time.time() - READERS_S:
                continue
            is_open = bool(self._boxes(iter([box_id])))
            if not is_open or self._box_id(account, container, fresh=True) != box_id:
                self._remove_box(account, container, box_id)
                count += 1
        return count

    def close(self) -> None:
        self._pool.shutdown()
        self._blobs.close()
        self._rados.close()


class RadosWriter:
    """See `store.Writer`."""

    def __init__(self, store: RadosStore, account: str, container: str, name: str) -> None:
        self._store, self._place = store, (account, container, name)
        self._new: NewBlob | None = store.new_blob()
        self._whose: Whose | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    @property
    def etag(self) -> str:
        return self._md5.hexdigest()

    def _asked(self) -> Whose:
        if self._whose is None:
            self._whose = self._store.whose(*self._place)
        return self._whose

    def write(self, chunk: bytes) -> None:
        assert self._new is not None
        self._new.write(chunk, self._asked)
        self._md5.update(chunk)
        self.size_bytes += len(chunk)

    def commit(self, put: Put, check: Check | None = None) -> Object:
        assert self._new is not None
        try:
            made = self._commit(self._new, put, check)
        finally:
            self.abandon()
        return made

    def _commit(self, new: NewBlob, put: Put, check: Check | None) -> Object:
        name = self._place[2]

        def act(was: Entry | None) -> Entry:
            if check is not None:
                check(was.told(name) if was else None)
            entry = Entry(self.size_bytes, self.etag, "", 0, new.blob, new.piece_count)
            return entry.described(put, newer(name, was, put))

        new.finish(self._asked)
        self._store.remember_end(self._asked().box_id, put.delete_at_s)
        try:
            made = self._store.change_object(self._asked(), act, new.session_name)
        except StorageFull:
            raise
        except Unavailable:  # an answer that did not come does not say what was done
            new.leave()
            self._new = None
            raise
        new.keep()
        self._new = None
        assert made is not None
        return made.told(name)

    def abandon(self) -> None:
        if self._new is not None:
            new, self._new = self._new, None
            new.drop()


class RadosReader:
    """See `store.Reader`."""

    def __init__(self, found: Object, blobs: Blobs) -> None:
        self.object, self._blobs = found, blobs

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        size_bytes = min(size_bytes, self.object.size_bytes - offset_bytes)
        return self._blobs.read(self.object.blob, offset_bytes, size_bytes) if size_bytes > 0 else b""

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        end = self.object.size_bytes if end is None else min(end, self.object.size_bytes)
        for offset in range(start, end, CHUNK_BYTES):
            yield self.read(offset, min(CHUNK_BYTES, end - offset))

    def close(self) -> None:
        return None


def newer(name: str, was: Entry | None, put: Put) -> int:
    """The time of what takes its place. `Fault("conflict")` if that is given, and not later."""
    if was is not None and put.timestamp_us is not None and put.timestamp_us <= was.timestamp_us:
        raise Fault("conflict", f"The object {name} is newer.")
    return put.timestamp_us or max(r.now_us(), was.timestamp_us + 10 if was else 0)
