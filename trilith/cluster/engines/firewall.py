"""What controllers say among themselves, closed to everybody else: nftables before the ports of their engines.

The engines know no finer rights: a host's certificate, which opens OVN's southbound database, would open the northbound
one, RAFT and Galera's group too, and memcached asks nobody who he is.
"""

import ipaddress
import json
import subprocess

from trilith.cluster.engines import rabbitmq
from trilith.cluster.engines.engine import HostView, Status, make_want
from trilith.cluster.engines.galera import PORT as SQL_PORT
from trilith.cluster.engines.haproxy import PEERS_PORT
from trilith.cluster.engines.ovn_central import NORTHBOUND, SOUTHBOUND
from trilith.drivers import linux_net, memcached
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

TABLE = "trilith_controllers"
GALERA_PORTS = (4444, 4567, 4568)  # state transfer, group, incremental transfer
ERLANG_PORTS = (4369, 25672)
RAFT_PORTS = (NORTHBOUND.raft_port, SOUTHBOUND.raft_port)
PORTS = sorted(
    {SQL_PORT, *GALERA_PORTS, *ERLANG_PORTS, rabbitmq.PORT, memcached.PORT, PEERS_PORT, NORTHBOUND.port, *RAFT_PORTS}
)
TOOL_S = 10.0
RULES = 4
NO_TABLE: Doc = {"controllers": [], "ports": [], "rules": 0}


class Firewall:
    """Of a controller. Rules are set in one transaction; they outlive the keeper, and not the host's power."""

    kind = "firewall"

    def __init__(self, view: HostView) -> None:
        self.view = view

    def known(self) -> set[str]:
        return set()

    def want(self) -> Doc:
        if not self.view.has_role("control"):
            return make_want(False)
        addresses = [str(ipaddress.ip_address(host.address)) for host in self.view.controllers]
        return make_want(True, controllers=sorted(addresses), ports=PORTS)

    def observe(self, key: str) -> Doc | None:
        """``controllers ports rules`` of the table; nothing of each where there is no table."""
        argv = ["nft", "-j", "list", "table", "inet", TABLE]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TOOL_S)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"nft takes longer than {TOOL_S:.0f} s.") from error
        return dict(NO_TABLE) if done.returncode else parse(done.stdout)

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        """Pure."""
        if not want["present"]:
            return [] if seen in (None, NO_TABLE) else [Act("open")]
        wanted = {"controllers": want["controllers"], "ports": want["ports"], "rules": RULES}
        return [] if seen == wanted else [Act("close", {"controllers": want["controllers"], "ports": want["ports"]})]

    def status(self, want: Doc, seen: Doc | None) -> Status:
        return Status(not self.plan(want, seen))

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "close":
                linux_net.run(["nft", "-f", "-"], ruleset(act.args["controllers"], act.args["ports"]))
            case "open":
                linux_net.run(["nft", "delete", "table", "inet", TABLE])
            case _:
                raise AssertionError(act.do)


def ruleset(controllers: list[str], ports: list[int]) -> str:
    """Replaces the table at once. Whoever is no controller gets no answer."""

    def having(elements: list[str]) -> str:
        return f"elements = {{ {', '.join(elements)} }};" if elements else ""

    four = [address for address in controllers if ":" not in address]
    six = [address for address in controllers if ":" in address]
    return f"""table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
  set four {{ type ipv4_addr; {having(four)} }}
  set six {{ type ipv6_addr; {having(six)} }}
  set ports {{ type inet_service; {having([str(port) for port in ports])} }}
  chain arrivals {{
    type filter hook input priority filter; policy accept;
    iifname != "lo" tcp dport @ports jump strangers
  }}
  chain strangers {{
    ip saddr @four return
    ip6 saddr @six return
    drop
  }}
}}
"""


def parse(text: str) -> Doc:
    """What ``nft -j list table`` says of it."""
    entries = json.loads(text)["nftables"]
    sets = {entry["set"]["name"]: entry["set"].get("elem", []) for entry in entries if "set" in entry}
    return {
        "controllers": sorted([*sets.get("four", []), *sets.get("six", [])]),
        "ports": sorted(sets.get("ports", [])),
        "rules": sum("rule" in entry for entry in entries),
    }
