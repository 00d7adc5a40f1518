"""keepalived on every controller: the cloud's address (VIP) is on one of them.

It moves when the host or its HAProxy dies, and when this controller could serve nobody for a while though another one
can: then the keeper lays the file `GIVE_WAY` down. It does not move back by itself. Who reaches no majority of the
controllers lets go of it: clients may reach both sides, and only one of them can serve.
"""

import errno
import hashlib
import http.client
import ipaddress
import socket
import ssl
import time

from trilith.cluster.engines.engine import (
    HostView,
    ServiceUnit,
    Status,
    UnitEngine,
    plan_absent,
    plan_files,
    plan_units,
)
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.engines.haproxy import ENTRY_PORT
from trilith.kernel import tls
from trilith.kernel.reconcile import Act, Doc

CONF = "/etc/keepalived/keepalived.conf"
MAJORITY = "/etc/keepalived/majority"
GIVE_WAY = "/run/trilith-give-way"
ADVERT_S = 0.2
ANSWER_S = 1.5
GIVES_WAY_S = 10.0  # a failure of all controllers ends sooner, and what others say of themselves is older than it


class Keepalived(UnitEngine):
    kind = "keepalived"

    def __init__(self, view: HostView) -> None:
        super().__init__(view)
        self._served_at_s = time.monotonic()

    def present(self) -> bool:
        return self.view.has_role("control") and self.view.settings.cluster.vip is not None

    def files(self) -> list[ConfigFile]:
        return [ConfigFile(MAJORITY, self._majority(), 0o755), ConfigFile(CONF, self._configuration())]

    def units(self) -> list[ServiceUnit]:
        return [
            ServiceUnit(
                "keepalived.service", (CONF, MAJORITY), "Restart=always\nRestartSec=0.5\nNice=-15\n", reloads=True
            )
        ]

    def observe(self, key: str) -> Doc:
        seen = super().observe(key) or {}
        if not self.present():
            return seen
        serves = self._serves()
        if serves:
            self._served_at_s = time.monotonic()
        long_idle = time.monotonic() - self._served_at_s >= GIVES_WAY_S
        others = [] if serves else [host.name for host in self.view.peers("control") if self._peer_serves(host.name)]
        gives_way = (self.view.root / GIVE_WAY.lstrip("/")).exists()
        holds = _is_ours(str(self.view.settings.cluster.vip))
        mine = {"serves": serves, "long_idle": long_idle, "others": others}
        return {**seen, **mine, "gives_way": gives_way, "holds": holds}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return plan(want, seen or {"files": {}, "units": {}})

    def status(self, want: Doc, seen: Doc | None) -> Status:
        found = super().status(want, seen)
        if found.ready and seen and want["present"] and not seen["serves"]:
            return Status(False, "No API answers through this controller's HAProxy.", found.detail)
        return found

    def detail(self, seen: Doc) -> Doc:
        return {"serves": seen["serves"], "holds_vip": seen["holds"]}

    def perform(self, key: str, act: Act) -> None:
        path = self.view.root / GIVE_WAY.lstrip("/")
        match act.do:
            case "give_way":
                path.touch()
            case "take_part":
                path.unlink(missing_ok=True)
            case _:
                super().perform(key, act)

    def _serves(self) -> bool:
        """Whether somebody who reached this controller would be served: an API answers through its HAProxy."""
        vip = str(self.view.settings.cluster.vip)
        try:
            context = tls.client_context(self.view.tls("ca.crt"))
            plain = socket.create_connection(("127.0.0.1", ENTRY_PORT), ANSWER_S)
            with context.wrap_socket(plain, server_hostname=vip) as secured:
                secured.sendall(f"GET /healthz HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n".encode())
                reply = http.client.HTTPResponse(secured)
                reply.begin()
                return reply.status == 200
        except (OSError, ssl.SSLError, http.client.HTTPException):
            return False

    def _peer_serves(self, name: str) -> bool:
        host = next(host for host in self.view.controllers if host.name == name)
        document = self.view.ask_peer(host) or {}
        return bool(document.get("engines", {}).get(self.kind, {}).get("detail", {}).get("serves"))

    def _majority(self) -> str:
        peers = [peer.address for peer in self.view.peers("control")]
        return f"""#!/bin/sh
# Written by Trilith's keeper: whether this host reaches so many other controllers that they are most, with itself.
reached=$(for peer in {" ".join(peers)}; do
    ping -n -q -c 1 -W 0.7 $peer >/dev/null 2>&1 && echo $peer &
done; wait)
[ "$(printf '%s' "$reached" | grep -c .)" -ge {len(self.view.controllers) // 2} ]
"""

    def _configuration(self) -> str:
        cluster, host = self.view.settings.cluster, self.view.host
        place = [each.name for each in self.view.controllers].index(host.name)
        interface = cluster.networks.management_interface
        prefix = ipaddress.ip_network(cluster.networks.management).prefixlen if cluster.networks.management else 32
        router = hashlib.sha256(f"{cluster.name} {cluster.vip}".encode()).digest()[0] % 255 + 1
        peers = "\n".join(f"    {peer.address}" for peer in self.view.peers("control"))
        return f"""# Written by Trilith's keeper; changes are overwritten.
global_defs {{
  router_id {host.name}
  # only version 3 knows times below a second
  vrrp_version 3
  enable_script_security
  script_user root
  # whoever heard another one say that the address is his hears soon who has it
  vrrp_garp_master_refresh 1
  vrrp_garp_master_refresh_repeat 1
}}
vrrp_script haproxy {{
  script "/usr/bin/systemctl is-active -q haproxy"
  interval 1
  timeout 1
  fall 1
  rise 2
}}
vrrp_script way {{
  script "/usr/bin/test ! -e {GIVE_WAY}"
  interval 1
  timeout 1
  fall 1
  rise 1
}}
vrrp_script majority {{
  script "{MAJORITY}"
  interval 1
  timeout 2
  fall 2
  rise 1
}}
vrrp_instance entry {{
  state BACKUP
  nopreempt
  interface {interface}
  virtual_router_id {router}
  priority {200 - 10 * place}
  advert_int {ADVERT_S}
  unicast_src_ip {host.address}
  unicast_peer {{
{peers}
  }}
  virtual_ipaddress {{
    {cluster.vip}/{prefix} dev {interface}
  }}
  track_script {{
    haproxy
    way
    majority
  }}
}}
"""


def plan(want: Doc, seen: Doc) -> list[Act]:
    """Pure."""
    if not want["present"]:
        return plan_absent(seen)
    acts = plan_files(want, seen) or plan_units(want, seen)
    if not acts and seen["long_idle"] and seen["others"] and not seen["gives_way"]:
        return [Act("give_way")]
    if not acts and seen["serves"] and seen["gives_way"]:
        return [Act("take_part")]
    return acts


def _is_ours(address: str) -> bool:
    """Whether this host has the address now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
        return True
