"""The measurements, in the order in which they are run."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.bench.figures import Figure
from tests.bench.meter import Span, leaders_of, pss_mib
from tests.bench.meter import measured as measured_leaders
from tests.bench.project import Project
from tests.clients.cloud import Cloud
from trilith.cluster.state import State

Say = Callable[[str], None]

SETTLE_S = 5.0  # between the last act and the watching of an idle cloud


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


def measured(state: State) -> AbstractContextManager[Span]:
    return measured_leaders(leaders_of(state), state.host)


def starts(port: int, times: int, say: Say) -> list[Figure]:
    """`trilith up` until it returns."""
    new = Figure("trilith up, new, with OVN", "s", 3.0)
    again = Figure("trilith up, second start", "s", 3.0)
    fake = Figure("trilith up --fake, new", "s", 2.0)
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
    pss = Figure("memory (PSS), new cloud", "MiB", 350)
    later = Figure("memory (PSS), after these servers", "MiB", 350)
    active = Figure("POST server to ACTIVE", "s", 2.0)
    login = Figure("POST server to login by ssh", "s", 20.0)
    with running(port) as cloud:
        state, project = state_of(cloud), Project(cloud)
        time.sleep(SETTLE_S)
        with measured(state) as span:
            empty = idle("idle CPU, no machines", state, idle_s, say)
        pss.add(pss_mib(leaders_of(state)), span)
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
            with_one = idle("idle CPU, one machine", state, idle_s, say)
        later.add(pss_mib(leaders_of(state)), span)
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


def idle(name: str, state: State, idle_s: float, say: Say) -> Figure:
    """CPU time that the whole cloud uses when nobody asks anything of it; machines themselves not counted."""
    say(f"{name}: watching for {idle_s:.0f} s")
    figure = Figure(name, "% of a core", 5.0)
    with measured(state) as span:
        time.sleep(idle_s)
    figure.add(100 * span.cpu_s / span.wall_s, span)
    shares = {process: 100 * used / span.wall_s for process, used in (span.by_process or {}).items()}
    most = sorted(shares.items(), key=lambda item: -item[1])[:5]
    figure.note = ", ".join(f"{process} {share:.2f}" for process, share in most)
    return figure
