"""Keeps OVN's northbound database what the SQL rows say, and tells the rows which ports are up.

One controller at a time does it, by lease. Woken by hints and by OVN itself; the clock makes it look anyway: a look is
cheap as long as nothing changed, and now and then everything is compared whether or not something seems to have.
"""

import logging
import threading
import time
from ipaddress import ip_address
from pathlib import Path

from trilith.cluster.engines.ovn_central import NORTHBOUND, remotes
from trilith.cluster.state import Settings, State
from trilith.cluster.up import ovn_host
from trilith.drivers.ovn import Northbound, Rows
from trilith.drivers.ovn_fake import FakeNorthbound
from trilith.drivers.ovsdb import Tls
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.leases import Holder
from trilith.kernel.reconcile import Act, Doc, Runner
from trilith.kernel.store import Store, Tx
from trilith.network import northbound_plan, repair, topology

log = logging.getLogger(__name__)

KEY = "northbound"
LOOK_S = 1.0
COMPARE_S = 30.0
LEASE_S = 6.0  # after which another controller goes on when this one is gone


def open_northbound(state: State, settings: Settings) -> Northbound | FakeNorthbound:
    """In a cluster: whichever controller leads the database, over TLS."""
    if settings.fake:
        return FakeNorthbound()
    if not settings.clustered:
        return Northbound(ovn_host(state, settings).remote)
    tls = Tls(state.tls / "host.key", state.tls / "host.crt", state.tls / "ca.crt")
    return Northbound(remotes(NORTHBOUND, settings.controllers), tls=tls)


class NetworkController:
    """`run()` is a thread's work until `stop()`; `wake()` makes it look now. It is a reconciler of one key."""

    kind = KEY

    def __init__(
        self,
        state: State,
        settings: Settings,
        store: Store,
        northbound: Northbound | FakeNorthbound | None = None,
    ) -> None:
        self._store, self._fake = store, settings.fake
        self._northbound: Northbound | FakeNorthbound = northbound or open_northbound(state, settings)
        self._lease = Holder(store, KEY, f"controller:{settings.host}", LEASE_S)
        self._moved = threading.Event()  # OVN has changed since it was compared
        self._done: tuple[object, ...] | None = None  # the mark of the rows that OVN has
        self._compared_at = 0.0
        self._runner = Runner(self, [self], LOOK_S, workers=1)
        self._northbound.on_change(self._on_change)

    def wake(self) -> None:
        self._runner.wake()

    def stop(self) -> None:
        self._runner.stop()

    def run(self) -> None:
        self._runner.run()
        self._northbound.close()

    def _on_change(self) -> None:
        self._moved.set()
        self._runner.wake()

    # where the runner gets its one want from
    def wants(self, kind: str) -> dict[str, Doc]:
        return {KEY: {"id": KEY, "generation": 1}} if self._lease.held() is not None else {}

    def report(self, kind: str, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
        """Rows tell what there is to tell: see `_report`."""

    # the reconciler
    def known(self) -> set[str]:
        return set()

    def observe(self, key: str) -> Doc:
        """What there is to do: a repair that was asked for, rows to compare, ports whose rows say something else."""
        late = time.monotonic() - self._compared_at > COMPARE_S
        same = not late and not self._moved.is_set() and self._store.read(_mark) == self._done
        up = self._ports_up()
        stale = self._store.read(lambda tx: topology.ports_that_changed(tx, up)) if up is not None else []
        return {"repair": self._store.read(repair.pending), "same": same, "stale_ports": len(stale)}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None:
            return []
        if seen["repair"]:
            return [Act("replace", {"number": seen["repair"]})]
        acts = [] if seen["same"] else [Act("compare")]
        return [*acts, Act("report")] if seen["stale_ports"] else acts

    def perform(self, key: str, act: Act) -> None:
        """Under the lease, in SQL and in OVN: whoever was asleep while another took over writes nothing any more."""
        lease = self._lease.held()
        if lease is None:
            raise Unavailable("another controller has taken over")
        try:
            self._northbound.take(lease.epoch, force=act.do == "replace")
            if act.do == "replace":
                self._replace(act.args["number"])
            elif act.do == "compare":
                self._compare()
            else:
                self._report()
        except Refused as error:  # one row that OVN does not take must not end the work on all others for ever
            raise Unavailable(str(error)) from error

    def _replace(self, number: int) -> None:
        self._northbound.replace(self._wanted())
        self._lease.run(lambda tx: repair.done(tx, number))
        log.info("all northbound rows made anew")

    def _compare(self) -> None:
        """Brings OVN to what the rows say."""
        mark = self._store.read(_mark)
        self._moved.clear()
        changes = northbound_plan.diff(self._wanted(), self._northbound.read())
        if changes:
            self._northbound.apply(changes)
            log.info("northbound rows changed", extra={"changes": len(changes)})
        if self._fake:
            self._plug_in()
        self._done, self._compared_at = mark, time.monotonic()

    def _wanted(self) -> Rows:
        document = self._store.read(lambda tx: topology.topology(tx, topology.gateways(tx), dns_servers=resolvers()))
        return northbound_plan.compile(document)

    def _ports_up(self) -> set[str] | None:
        """None while OVN is away: then nobody knows."""
        try:
            return self._northbound.ports_up()
        except Unavailable:
            return None

    def _report(self) -> None:
        up = self._northbound.ports_up()
        self._lease.run(lambda tx: topology.report_ports_up(tx, up))

    def _plug_in(self) -> None:
        """On hosts that are not real a port is up as soon as it is bound."""
        if isinstance(self._northbound, FakeNorthbound):
            bound = {row["id"] for row in self._store.read(topology.bound_ports)}
            for port_id in bound - self._northbound.ports_up():
                self._northbound.set_up(port_id)


def _mark(tx: Tx) -> tuple[object, ...]:
    return (*topology.fingerprint(tx), repr(topology.gateways(tx)))


def resolvers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """The name servers of this machine that others can reach too: for subnets that name none."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    found = [words[1].partition("%")[0] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [address for address in found if not ip_address(address).is_loopback]
