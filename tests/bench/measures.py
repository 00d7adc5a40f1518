"""The measurements, in the order in which they are run."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.figures import Figure
from tests.bench.meter import measured, pss_mib
from tests.bench.project import Project
from tests.clients.cloud import Cloud
from trilith.cluster.state import State

Say = Callable[[str], None]

SETTLE_S = 5.0  # between the last act and the watching of an idle cloud
SERVERS_LISTED = 100


@contextmanager
def running(port: int, fake: bool = False) -> Iterator[Cloud]:
    cloud = Cloud(port, fake)
    try:
        cloud.up()
        yield cloud
    finally:
        cloud.down()


def state_of(cloud: Cloud) -> State:
    return State(cloud.state / "cloud")


def starts(port: int, times: int, say: Say) -> list[Figure]:
    """`trilith up` until it returns."""
    new = Figure("trilith up, new, with OVN", "s", "start", 3.0)
    again = Figure("trilith up, second start", "s", "start", 3.0)
    fake = Figure("trilith up --fake, new", "s", "start", 2.0)
    for number in range(times):
        say(f"starts {number + 1} of {times}")
        for figure in (new, fake):
            cloud = Cloud(port, fake=figure is fake)
            try:
                _start(cloud, figure)
                if figure is new:
                    cloud.trilith("down")
                    _start(cloud, again)
            finally:
                cloud.down()
    return [new, again, fake]


def _start(cloud: Cloud, figure: Figure) -> None:
    with measured(state_of(cloud)) as span:
        cloud.up()
    figure.add(span.wall_s, span)


def machines(port: int, times: int, idle_s: float, say: Say) -> list[Figure]:
    """A cloud with OVN and QEMU: empty, with one machine, and machines being made."""
    pss = Figure("memory (PSS), new cloud", "MiB", "pss", 350)
    later = Figure("memory (PSS), after these servers", "MiB", "pss", 350)
    active = Figure("POST server to ACTIVE", "s", "", 2.0)
    login = Figure("POST server to login by ssh", "s", "", 20.0)
    with running(port) as cloud:
        state, project = state_of(cloud), Project(cloud)
        time.sleep(SETTLE_S)
        with measured(state) as span:
            empty = idle("idle CPU, no machines", "idle", state, idle_s, say)
        pss.add(pss_mib(state), span)
        network = project.network()
        project.way_out()
        body = project.server_body(network, key_name="bench")
        for number in range(times):
            say(f"servers {number + 1} of {times}")
            server = _boot(project, body, state, active, login)
            if number + 1 < times:
                project.gone(server)
        time.sleep(SETTLE_S)
        with measured(state) as span:
            with_one = idle("idle CPU, one machine", "", state, idle_s, say)
        later.add(pss_mib(state), span)
    return [active, login, pss, later, empty, with_one]


def _boot(project: Project, body: dict[str, Any], state: State, active: Figure, login: Figure) -> str:
    begun = time.monotonic()
    with measured(state) as until_login:
        with measured(state) as until_active:
            server = str(project.call("POST", "/compute/v2.1/servers", body)["server"]["id"])
            project.active(server)
        active.add(time.monotonic() - begun, until_active)
        project.login(project.address(server))
    login.add(time.monotonic() - begun, until_login)
    return server


def idle(name: str, key: str, state: State, idle_s: float, say: Say) -> Figure:
    """CPU time that the whole cloud uses when nobody asks anything of it; machines themselves not counted."""
    say(f"{name}: watching for {idle_s:.0f} s")
    figure = Figure(name, "% of a core", key, 5.0)
    with measured(state) as span:
        time.sleep(idle_s)
    figure.add(100 * span.cpu_s / span.wall_s, span)
    shares = {process: 100 * used / span.wall_s for process, used in (span.by_process or {}).items()}
    most = sorted(shares.items(), key=lambda item: -item[1])[:5]
    figure.note = ", ".join(f"{process} {share:.2f}" for process, share in most)
    return figure


def requests(port: int, count: int, say: Say) -> list[Figure]:
    """CPU time of the cloud for a request, and requests one after the other from one client. A fake cloud."""
    with running(port, fake=True) as cloud:
        project, state = Project(cloud, "admin"), state_of(cloud)
        network = project.network()
        storm = _storm(project, network, state, say)
        server = project.call("GET", "/compute/v2.1/servers?limit=1")["servers"][0]["id"]
        auth = cloud.clouds()[cloud.names["admin"]]["auth"]
        user = {"name": auth["username"], "password": auth["password"], "domain": {"name": "Default"}}
        scope = {"project": {"name": auth["project_name"], "domain": {"name": "Default"}}}
        by_password = {"methods": ["password"], "password": {"user": user}}
        by_token = {"methods": ["token"], "token": {"id": project.token}}
        sign_in = "/identity/v3/auth/tokens"
        port_body = {"port": {"network_id": network}}
        cases: list[tuple[str, str, str, str, Any, int]] = [
            # not the first time: that costs bcrypt, here as upstream, which pays for it each time
            ("POST token, password known", "token_password", "POST", sign_in, _auth(by_password, scope), count // 10),
            ("POST token, by token", "token_token", "POST", sign_in, _auth(by_token, scope), count),
            ("GET server", "server_show", "GET", f"/compute/v2.1/servers/{server}", None, count),
            (f"GET {SERVERS_LISTED} servers", "server_list", "GET", "/compute/v2.1/servers/detail", None, count // 4),
            ("GET 100 ports", "port_list", "GET", "/networking/v2.0/ports?limit=100", None, count // 4),
            ("POST port", "port_create", "POST", "/networking/v2.0/ports", port_body, count // 2),
        ]
        return [storm, *(_case(project, state, *case, say=say) for case in cases)]


def _auth(identity: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    return {"auth": {"identity": identity, "scope": scope}}


def _case(
    project: Project, state: State, name: str, key: str, method: str, path: str, body: Any, count: int, say: Say
) -> Figure:
    say(f"{name}, {count} times")
    figure = Figure(name, "CPU ms", key)
    project.call(method, path, body)
    took: list[float] = []
    parts = 5  # so that there is a median and a range
    for _ in range(parts):
        with measured(state) as span:
            for _ in range(max(1, count // parts)):
                begun = time.monotonic()
                project.call(method, path, body)
                took.append(time.monotonic() - begun)
        figure.add(1000 * span.cpu_s / max(1, count // parts), span)
    half = statistics.median(took) * 1000
    last = statistics.quantiles(took, n=100)[98] * 1000 if len(took) > 1 else half
    rate = f"{len(took) / sum(took):.0f} a second from one client"
    figure.note = f"{len(took)} requests, {rate}, half within {half:.1f} ms, 99 % within {last:.1f} ms"
    return figure


def _storm(project: Project, network: str, state: State, say: Say) -> Figure:
    """Many servers asked for one after the other, until the last of them is ACTIVE."""
    say(f"{SERVERS_LISTED} servers on pretended machines")
    figure = Figure(f"{SERVERS_LISTED} servers to ACTIVE (fake)", "s", "server_storm")
    mine = project.call("GET", "/identity/v3/projects?name=admin")["projects"][0]["id"]
    unlimited = {"quota_set": dict.fromkeys(("instances", "cores", "ram"), -1)}
    project.call("PUT", f"/compute/v2.1/os-quota-sets/{mine}", unlimited)
    project.call("PUT", f"/networking/v2.0/quotas/{mine}", {"quota": {"port": -1}})
    body = project.server_body(network)
    with measured(state) as span:
        made = [project.call("POST", "/compute/v2.1/servers", body)["server"]["id"] for _ in range(SERVERS_LISTED)]
        for server in made:
            project.active(server)
    figure.add(span.wall_s, span)
    return figure
