"""HAProxy on every controller: the one entry of the cloud, and this controller's way to the database node that is
written to.

Its backends are ``api``, ``hubs``, ``sql``, and ``objects`` where the cloud has an object store. Its servers are named
as the controllers; on `ADMIN_SOCKET` it takes ``set server api/c1 state drain``.
"""

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Callable

from trilith.cluster.engines.engine import HostView, ServiceUnit, UnitEngine
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.engines.galera import PORT as SQL_PORT
from trilith.cluster.state import KEEPER_PORT, WRITER_PORT
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Act, Doc

CONF = "/etc/haproxy/haproxy.cfg"
TLS_DIRECTORY = "/etc/haproxy/trilith"
TLS_FILES = ("ca.crt", "host.pem", "vip.pem")
ADMIN_SOCKET = "/run/haproxy/admin.sock"
ENTRY_PORT = 443
PEERS_PORT = 10000
SOCKET_S = 1.0
CHECK_S = 20.0
BACKENDS = ("api", "hubs", "objects", "sql")
OBJECT_PATHS = "path_beg /object-store/", "path /info /healthcheck"
SECURED = "ssl verify required ca-file ca.crt verifyhost {name}"
# of a server without power
GIVES_UP = """\
  option srvtcpka
  srvtcpka-idle 2s
  srvtcpka-intvl 1s
  srvtcpka-cnt 2
  default-server tcp-ut 4s"""
HUB_PATHS = "/wake /console /agent-console /novnc"  # beginnings; the first two cover /console-log


class Haproxy(UnitEngine):
    kind = "haproxy"

    def present(self) -> bool:
        return self.view.has_role("control")

    def files(self) -> list[ConfigFile]:
        text = self.view.tls_text
        pems = {
            "ca.crt": text("ca.crt"),
            "host.pem": text("host.crt") + text("host.key"),
            "vip.pem": text("vip.pem"),
        }
        keys = [ConfigFile(f"{TLS_DIRECTORY}/{name}", pem, 0o600) for name, pem in pems.items()]
        return [*keys, ConfigFile(CONF, configuration(self.view))]

    def perform(self, key: str, act: Act) -> None:
        if act.do == "write_file" and act.args["path"] == CONF:
            check(configuration(self.view))
        super().perform(key, act)

    def units(self) -> list[ServiceUnit]:
        reads = (CONF, *(f"{TLS_DIRECTORY}/{name}" for name in TLS_FILES))
        return [ServiceUnit("haproxy.service", reads, "OOMScoreAdjust=-500\nNice=-10\nRestartSec=0.2\n", reloads=True)]

    def observe(self, key: str) -> Doc:
        seen = super().observe(key) or {}
        running = all(unit["active"] == "active" for unit in seen["units"].values())
        return {**seen, **(traffic() if self.present() and running else {})}

    def complaint(self) -> str | None:
        return None if ask("show info") else f"HAProxy does not answer on {ADMIN_SOCKET}."

    def detail(self, seen: Doc) -> Doc:
        return {"writer": seen.get("writer"), "down": seen.get("down", [])}


def check(text: str) -> None:
    """Raises `Unavailable` with HAProxy's own words where it would not start with this configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(["haproxy", "-c", "-f", file.name], capture_output=True, text=True, timeout=CHECK_S)
    if done.returncode:
        raise Unavailable(f"HAProxy refuses its configuration: {(done.stderr or done.stdout).strip()[-300:]}")


def traffic(ask_it: Callable[[str], str] | None = None) -> Doc:
    """`writer`: the controller whose database is written to; `down`: servers that it does not use, ``api/c1``."""
    answer = ask_it or ask
    writer = None
    for line in answer("show table sql").splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        writer = fields.get("server_key", writer)
    down = []
    for line in answer("show stat -1 4 -1").splitlines():
        cells = line.split(",")
        if (
            len(cells) > 17
            and cells[0] in ("api", "hubs", "objects", "sql")
            and not cells[17].startswith(("UP", "no check"))
        ):
            down.append(f"{cells[0]}/{cells[1]}")
    return {"writer": writer, "down": down}


def ask(command: str) -> str:
    """One command to the running HAProxy; an empty answer when it does not give any."""
    parts = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOCKET_S)
        connection.connect(ADMIN_SOCKET)
        connection.sendall(command.encode() + b"\n")
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


def configuration(view: HostView) -> str:
    objects = [_objects(view)] if view.settings.stores_objects else []
    return "\n".join([_global(view), _entry(view), _apis(view), _hubs(view), *objects, _sql(view)])


def _servers(view: HostView, port: int, words: str, backup: bool = False) -> str:
    """One line a controller; the certificate of each must be that controller's."""
    lines = []
    for number, host in enumerate(view.controllers):
        spare = " backup" if backup and number else ""
        lines.append(f"  server {host.name} {_at(host.address, port)} {words.format(name=host.name)}{spare}")
    return "\n".join(lines)


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _global(view: HostView) -> str:
    return f"""# Written by Trilith's keeper; changes are overwritten.
global
  log /dev/log local0
  user haproxy
  group haproxy
  localpeer {view.host.name}
  maxconn 8000
  nbthread 2
  hard-stop-after 30s
  stats socket {ADMIN_SOCKET} mode 600 level admin
  ca-base {TLS_DIRECTORY}
  crt-base {TLS_DIRECTORY}
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-server-options ssl-min-ver TLSv1.2
defaults
  log global
  mode http
  option httplog
  option dontlognull
  option redispatch 1
  retries 3
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout queue 10s
  timeout check 2s
"""


def _entry(view: HostView) -> str:
    by_name = "\n".join(
        f"  use_backend hub-{host.name} if {{ path_beg /agent-console/{host.name}. }}" for host in view.controllers
    )
    rules = [f"  acl objects {paths}" for paths in OBJECT_PATHS] + ["  use_backend objects if objects"]
    objects = "\n".join(rules) if view.settings.stores_objects else ""
    return f"""frontend entry
  bind :{ENTRY_PORT} ssl crt vip.pem alpn http/1.1
  http-request set-header X-Forwarded-Proto https
  option forwardfor
  # what a request did before its server died is not known: only reading is tried again
  http-request disable-l7-retry unless METH_GET or {{ method HEAD }}
  acl hub path_beg {HUB_PATHS}
{by_name}
  use_backend hubs if hub
{objects}
  # when no API is ready (they wait for the database), they wait together with the client
  use_backend api-waiting if {{ nbsrv(api) eq 0 }}
  default_backend api
"""


def _apis(view: HostView) -> str:
    port = view.settings.port
    return f"""backend api
  balance leastconn
  retry-on conn-failure empty-response 503
  option httpchk GET /healthz
  # the end of an upload is silence: bytes are checked and copied
  http-request set-timeout server 600s if {{ path_beg /agent/v1/images/ /image/ }} {{ method PUT }}
  # each look costs three controllers a TLS handshake: a server that fails a request is marked down by that
  default-server check inter 2s fastinter 500ms downinter 500ms fall 2 rise 2
  default-server observe layer4 error-limit 1 on-error mark-down
  # a host without power says nothing, nor does its kernel: what waits for it waits no longer than that takes to see
{GIVES_UP}
  # a controller that has just started has other work yet; the others take most requests meanwhile
  default-server slowstart 20s
{_servers(view, port, SECURED)}
backend api-waiting
  balance roundrobin
{_servers(view, port, SECURED)}
"""


def _hubs(view: HostView) -> str:
    port = view.settings.hub_port
    waits = "  timeout server 1h\n  timeout tunnel 12h"
    single = "\n".join(
        f"backend hub-{host.name}\n{waits}\n"
        f"  server {host.name} {_at(host.address, port)} {SECURED.format(name=host.name)}"
        for host in view.controllers
    )
    return f"""backend hubs
  balance leastconn
{waits}
  option httpchk GET /healthz
  default-server check inter 2s fastinter 500ms downinter 500ms fall 2 rise 2 on-marked-down shutdown-sessions
{_servers(view, port, SECURED)}
{single}
"""


def _objects(view: HostView) -> str:
    """A copy of a large object answers when it is done; bytes on their way count as words."""
    return f"""backend objects
  balance leastconn
  retry-on conn-failure empty-response 503
  timeout server 600s
  option httpchk GET /healthz
  default-server check inter 2s fastinter 500ms downinter 500ms fall 2 rise 2
  default-server observe layer4 error-limit 1 on-error mark-down
{GIVES_UP}
{_servers(view, view.settings.objects_port, SECURED)}
"""


def _sql(view: HostView) -> str:
    """Everybody writes to one node, the same for all controllers (the peers share the table), and stays there until it
    is gone; a node that comes back changes nothing."""
    peers = "\n".join(
        f"  server {host.name}" + ("" if host.name == view.host.name else f" {_at(host.address, PEERS_PORT)}")
        for host in view.controllers
    )
    check = f"check port {KEEPER_PORT} check-ssl verify required ca-file ca.crt verifyhost {{name}}"
    return f"""peers controllers
  bind {_at(view.host.address, PEERS_PORT)} ssl crt host.pem ca-file ca.crt verify required
  default-server ssl crt host.pem ca-file ca.crt verify required
{peers}
listen sql
  bind 127.0.0.1:{WRITER_PORT}
  mode tcp
  option tcplog
  option clitcpka
  option srvtcpka
  timeout client 12h
  timeout server 12h
  stick-table type integer size 1 expire 7d peers controllers
  stick on int(1)
  option httpchk GET /galera
  default-server inter 500ms fastinter 200ms fall 2 rise 2 on-marked-down shutdown-sessions
{_servers(view, SQL_PORT, check, backup=True)}
"""
