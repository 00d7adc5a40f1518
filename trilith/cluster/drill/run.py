"""One drill, from its first request to the last check."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from trilith.cluster import audit
from trilith.cluster.drill.drills import Drill
from trilith.cluster.drill.load import PATHS, Broken, Promises, User, broken_promises, take_away
from trilith.cluster.drill.measure import Figures, figures, missed
from trilith.cluster.drill.meter import Target
from trilith.cluster.drill.moves import Move, Moves, with_downtime
from trilith.cluster.drill.objects import ObjectWriter, Place
from trilith.cluster.drill.rehearsed import Rehearsed
from trilith.cluster.drill.site import Site, own_process
from trilith.cluster.drill.stage import Stage
from trilith.cluster.drill.writers import Told, Writers
from trilith.cluster.state import Problem

BEFORE_S = 8.0  # how long the usual is measured
BEGIN_S = 30.0  # until the first request has been answered
HEALTHY_S = 180.0  # before a drill
SETTLE_S = 120.0
PINGS_S = 240.0  # until a machine has booted, where processors are pretended too
LAST_LIFE_S = 240.0
USERS = 2
UPLOAD_BYTES = 4 << 20  # of the user who does nothing but upload
USER_REST_S = 1.0  # a user's pause before each request: what breaks on a machine without any rest says little
RATE = 20.0  # requests a second of the meter
# The same where machines boot meanwhile, for which all hosts of a rehearsal have the processors of one.
LIGHT_USERS, LIGHT_REST_S, LIGHT_RATE = 1, 4.0, 5.0
OBJECTS_REST_S = 0.1  # of those who write objects, where the drill is about them; beside others they rest as these do
STEADY_S = 10.0  # that everything is healthy, and measured, before a drill ends: what died is seen seconds later only
COUNT_EACH_S = 1.0
LOOK_EACH_S = 2.0  # a look costs every host a part of a second of its processor
Doc = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class Outcome:
    """What came of a drill. `samples`: the meter's; `fault_at_s`, `fault_ended_s`: on the same clock. `wrong`: what
    bars do not hold; `stuck`, `leaked`, `lost`: sentences. `moves`: see `moves.with_downtime`."""

    drill: str
    what: str
    bar: Doc
    broke: str = ""
    fault_at_s: float = 0.0
    mended_at_s: float | None = None
    fault_ended_s: float = 0.0
    figures: Figures = field(default_factory=Figures)
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    load: Doc = field(default_factory=dict)
    moves: list[Doc] = field(default_factory=list)
    samples: list[Doc] = field(default_factory=list, repr=False)

    @property
    def passed(self) -> bool:
        return not (self.wrong or self.stuck or self.leaked or self.lost)


class Measurement:
    """The meter as long as it runs, and what it has written."""

    def __init__(self, target: Target) -> None:
        self.samples: list[Doc] = []
        self.kept: set[str] = set()
        self._process = own_process("trilith.cluster.drill.meter")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(target)) + "\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + BEGIN_S
        while not self.samples and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            document = json.loads(line)
            if "kept" in document:
                self.kept = set(document["kept"])
            else:
                self.samples.append(document)

    def end(self) -> None:
        """Waits for the requests that are on their way."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            code = self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Problem("The measuring client does not end. Is this machine overloaded?") from None
        self._reader.join(10)
        if code != 0:
            raise Problem(f"The measuring client failed with code {code}; its words are above.")


def run_drill(site: Site, stage: Stage, drill: Drill, say: Say, alone: bool = True) -> Outcome:
    """Not `alone`: others use the cloud. Raises `Problem` where it is not healthy, or the drill cannot be done."""
    outcome = Outcome(drill.name, drill.what, asdict(drill.bar))
    wait_healthy(site, HEALTHY_S, say)
    place = stage.object_place() if drill.objects else None
    if drill.about_objects and place is None:
        raise Problem(f"{site.name} has no object store; with several hosts it needs Ceph. Drill examples/ceph.yaml.")
    if drill.before:
        drill.before(site)
        wait_healthy(site, HEALTHY_S, say)
    promises = Promises()
    standing = stage.user(99, promises, threading.Event())
    standing.stay()
    writers = None
    if drill.machines:
        say(f"{drill.name}: {drill.machines} machines that write")
        host = drill.host(site) if drill.host else None
        there = [key for key, kind in promises.made.items() if kind == "server"] + stage.servers
        others = sum(stage.host_of(key) == host for key in there) if host else 0
        writers = Writers(stage, standing, drill.machines - others, host)
    promises.starts = {key: start for key, start in audit.starts(site.looks()).items() if key in promises.made}
    say(f"{drill.name}: measuring the usual for {BEFORE_S:.0f} s")
    rate = LIGHT_RATE if drill.machines else RATE
    measured = Measurement(stage.target(rate, *(writers.addresses if writers else ()), streams=bool(drill.moves)))
    told: dict[str, Told] = {}
    moved: list[Move] = []
    try:
        counted = _counted(site if drill.counted or drill.moves else None, bool(drill.moves), outcome)
        writing = _object_writers(stage, promises, drill, place)
        with writing as object_writers, _users(stage, promises, drill) as users, counted:
            time.sleep(BEFORE_S)
            if drill.storm:
                _storm(standing, drill.storm)
            if writers:
                told = writers.all_told()
            _break(site, drill, outcome, say)
            if drill.moves and writers and isinstance(site, Rehearsed):
                moved = _move(site, stage, drill, writers, outcome, say)
            outcome.figures.healed_s = _healed(site, drill, outcome, say)
    finally:
        measured.end()
    healed_s, outcome.samples = outcome.figures.healed_s, measured.samples
    outcome.figures = figures(measured.samples, rate, outcome.fault_at_s, outcome.mended_at_s)
    outcome.figures.healed_s = healed_s
    if writers:
        outcome.figures.io_s = writers.slowest_s()
        addresses = dict(zip(writers.servers, writers.addresses, strict=True))
        outcome.moves = with_downtime(moved, addresses, measured.samples)
    outcome.wrong = missed(outcome.figures, drill.bar)
    if drill.restarts:
        promises.starts.clear()
    if hanging := [user.name for user in [*users, *object_writers] if user.is_alive()]:
        outcome.stuck.append(f"{', '.join(hanging)} hang")
    say(f"{drill.name}: checking what was promised")
    if writers:
        outcome.lost += _what_was_written(site, promises, writers, told, bool(drill.moves))
    outcome.lost += [words for writer in object_writers for words in _what_became_of_objects(writer)]
    _check(site, stage, standing, measured.kept, outcome, alone)
    outcome.load = {"deleted": len(promises.deleted), "requests": promises.requests, "retries": promises.retries}
    if object_writers:
        waited_s = max(writer.waited_s for writer in object_writers)
        outcome.load |= {"objects": sum(writer.puts for writer in object_writers), "objects_waited_s": waited_s}
    return outcome


def wait_healthy(site: Site, limit_s: float, say: Say, steady_s: float = 0.0) -> float:
    """Seconds until nothing is wrong; returns when nothing has been for `steady_s` more. `Problem` when it takes too
    long."""
    begun_s, told = time.monotonic(), ""
    well_since_s: float | None = None
    while True:
        problems, now_s = site.problems(), time.monotonic()
        if problems:
            well_since_s = None
            if now_s - begun_s > limit_s:
                raise Problem(
                    f"{site.name} is not healthy within {limit_s:.0f} s: {'; '.join(problems)}. See: trilith status"
                )
            if problems[0] != told:
                told = problems[0]
                say(f"  {now_s - begun_s:5.1f} s  {'; '.join(problems)[:160]}")
        else:
            well_since_s = well_since_s or now_s
            if now_s - well_since_s >= steady_s:
                return well_since_s - begun_s
        time.sleep(LOOK_EACH_S)


@contextmanager
def _users(stage: Stage, promises: Promises, drill: Drill) -> Iterator[list[User]]:
    """People at work; each ends the life that it is in. In a storm they take no volumes from machines, because a guest
    lets go of one only when it has booted. Where machines are looked at they make none of their own."""
    ended = threading.Event()
    count, rest_s = (LIGHT_USERS, LIGHT_REST_S) if drill.machines else (USERS, USER_REST_S)
    users = [stage.user(number, promises, ended, rest_s) for number in range(count + 1)]
    users[count].images, users[count].image_bytes = 1.0, UPLOAD_BYTES
    for user in users:
        user.detaches, user.machines = not drill.storm, not drill.machines
        user.start()
    try:
        yield users
    finally:
        ended.set()
        _joined(users)


@contextmanager
def _object_writers(
    stage: Stage, promises: Promises, drill: Drill, place: Place | None
) -> Iterator[list[ObjectWriter]]:
    """Those who write objects; none where there is no object store."""
    ended = threading.Event()
    rest_s = OBJECTS_REST_S if drill.about_objects else LIGHT_REST_S if drill.machines else USER_REST_S
    numbers = range(drill.objects) if place is not None else ()
    writers = [ObjectWriter(number, place, promises, ended, stage.things, rest_s) for number in numbers if place]
    for writer in writers:
        writer.begin()
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        ended.set()
        _joined(writers)


def _joined(users: Sequence[User]) -> None:
    """Waits for what they are doing."""
    deadline = time.monotonic() + LAST_LIFE_S
    for user in users:
        user.join(max(0.0, deadline - time.monotonic()))


def _what_became_of_objects(writer: ObjectWriter) -> list[str]:
    try:
        found = writer.wrong()
        writer.take_away()
        return found
    except Broken as broken:
        return [f"{writer.name}: {broken}"]


def _storm(user: User, count: int) -> None:
    """Many servers by one request; each is a promise."""
    things, name = user.things, "storm"
    body: Doc = {
        "name": name,
        "flavorRef": things.flavor,
        "imageRef": things.image,
        "networks": [{"uuid": things.network}],
    }
    body |= {"min_count": count, "max_count": count, "return_reservation_id": True}
    answer = user.ask("POST", PATHS["server"], {"server": body})
    if answer.status != 202:
        raise Broken(f"asking for {count} servers: {answer.status} {answer.content[:200]!r}")
    listed = user.ask("GET", f"{PATHS['server']}?name={name}-").json["servers"]
    user.promises.made |= {row["id"]: "server" for row in listed}


def _what_was_written(
    site: Site, promises: Promises, writers: Writers, told: dict[str, Told], moves: bool
) -> list[str]:
    """To find out, they are started again: whether anything else did that has to be known before. Machines that have
    moved run in another process; what they wrote says whether they are the same."""
    starts, found = audit.starts(site.looks()), []
    for server in writers.servers:
        before = promises.starts.pop(server, None)
        if not moves and before is not None and starts.get(server) != before:
            found.append(f"server {server} was started again: {before} became {starts.get(server)}")
    try:
        return found + writers.wrong(told, lived_on=moves)
    except Broken as broken:
        return [str(broken)]
    finally:
        writers.clear()


@contextmanager
def _counted(site: Site | None, moving: bool, outcome: Outcome) -> Iterator[None]:
    """Meanwhile, QEMU processes are counted: a machine that has two is lost, whatever becomes of it later. While
    machines move they have two, of which one may run."""
    ended = threading.Event()

    def count() -> None:
        while isinstance(site, Rehearsed) and not ended.wait(COUNT_EACH_S):
            for server, hosts in (site.running_twice() if moving else site.there_twice()).items():
                twice = f"machine {server} ran on {' and '.join(hosts)} at once"
                if twice not in outcome.lost:
                    outcome.lost.append(twice)

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        ended.set()
        counter.join(10)


def _break(site: Site, drill: Drill, outcome: Outcome, say: Say) -> None:
    outcome.fault_at_s = time.monotonic()
    outcome.broke = drill.inject(site)
    say(f"{drill.name}: {outcome.broke}")
    if drill.heal:
        time.sleep(max(0.0, outcome.fault_at_s + drill.lasts_s - time.monotonic()))
        outcome.mended_at_s = time.monotonic()
        drill.heal(site)
        say(f"{drill.name}: healed after {time.monotonic() - outcome.fault_at_s:.0f} s")
    outcome.fault_ended_s = time.monotonic()


def _move(site: Rehearsed, stage: Stage, drill: Drill, writers: Writers, outcome: Outcome, say: Say) -> list[Move]:
    moves = Moves(site, stage, writers.servers)
    done = moves.run(drill.moves, drill.kills)
    outcome.broke = moves.told(done)
    outcome.stuck += [sentence for move in done for sentence in move.wrong]
    outcome.fault_ended_s = time.monotonic()
    say(f"{drill.name}: {outcome.broke}")
    return done


def _healed(site: Site, drill: Drill, outcome: Outcome, say: Say) -> float | None:
    begun_s = time.monotonic()
    try:
        took_s = wait_healthy(site, drill.bar.healed_s, say, STEADY_S)
    except Problem as problem:
        outcome.stuck.append(str(problem))
        return None
    return begun_s + took_s - outcome.fault_ended_s


def _check(site: Site, stage: Stage, user: User, kept: set[str], outcome: Outcome, alone: bool) -> None:
    """Nothing is stuck, nothing promised is lost; and when everything is given back, nothing is left. What others use
    is in between all the time."""
    if alone:
        outcome.stuck += _eventually(lambda: audit.unsettled(site.looks()))
    try:
        outcome.lost += broken_promises(user, audit.starts(site.looks()))
        there = stage.keypairs()
        outcome.lost += [f"keypair {name} was made, and is lost" for name in sorted(kept - there)]
        for name in there:
            stage.remove_keypair(name)
        take_away(user)
        stage.remove_leftovers()
    except Broken as broken:
        outcome.lost.append(str(broken))
    if alone:
        outcome.leaked += _eventually(lambda: audit.left_over(site.looks(), stage.project, stage.standing))


def _eventually(what_is_wrong: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            wrong = what_is_wrong()
        except (Problem, OSError, ValueError) as error:
            wrong = [f"a host cannot be asked: {error}"]
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(LOOK_EACH_S)


def _wait_pings(stage: Stage, say: Say) -> None:
    """Until every machine has answered one."""
    say(f"waiting for pings from {', '.join(stage.addresses)}")
    deadline = time.monotonic() + PINGS_S
    for address in stage.addresses:
        while subprocess.run(["ping", "-c1", "-W1", address], capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise Problem(f"The machine at {address} does not answer pings. See: trilith status, trilith logs")


def run_drills(site: Site, drills: list[Drill], times: int, say: Say, alone: bool = True) -> Iterator[Outcome]:
    """All of them, `times` times over; one that could not be done to its end has that as its outcome. Not `alone`:
    others use the cloud meanwhile."""
    wait_healthy(site, HEALTHY_S, say)
    stage = Stage(site)
    try:
        if not site.fake:
            stage.make_machines()
            _wait_pings(stage, say)
            if isinstance(site, Rehearsed):
                site.gateway_port = stage.gateway_port
        for _ in range(times):
            for drill in drills:
                try:
                    yield run_drill(site, stage, drill, say, alone)
                except (Problem, Broken) as problem:  # the others are done all the same
                    yield Outcome(drill.name, drill.what, asdict(drill.bar), stuck=[str(problem)])
    finally:
        stage.clear()
