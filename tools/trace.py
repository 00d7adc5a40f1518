"""Follows one ``POST /compute/v2.1/servers`` through the program: which files and functions it passes.

    python -m tools.trace            every file with its functions, in the order of first touch
    python -m tools.trace --files    the files alone, as they stand in tests/trace.txt

A whole cloud in one process: the real API over real SQL, and a host's real agent over pretended machines. One server is
made before, so that what runs once only (tables, routes, statements) is not counted.
"""

import argparse
import io
import json
import logging
import os
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

ROOT = Path(__file__).resolve().parent.parent
OURS = f"{ROOT / 'trilith'}/"
ADDRESS = "127.0.0.1"
Doc = dict[str, Any]
Wsgi = Callable[..., Any]


@dataclass
class Touched:
    """The functions of ours that ran, file by file, both in the order of first touch."""

    files: dict[str, dict[str, CodeType]] = field(default_factory=dict)

    @property
    def functions(self) -> int:
        return sum(len(functions) for functions in self.files.values())

    @property
    def lines(self) -> int:
        """Of the functions that ran, not of their files."""
        return sum(_lines(code) for functions in self.files.values() for code in functions.values())


class Recorder:
    """Sees every call in every thread that was started after it was made, while `into` is being recorded."""

    def __init__(self) -> None:
        self._touched: Touched | None = None
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    @contextmanager
    def into(self, touched: Touched) -> Iterator[None]:
        self._touched = touched
        try:
            yield
        finally:
            self._touched = None

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # pieces of a function (comprehensions, lambdas) are read with it
        if self._touched is None or event != "call" or code.co_name.startswith("<"):
            return
        if code.co_filename.startswith(OURS):
            name = code.co_filename.removeprefix(OURS)
            self._touched.files.setdefault(name, {}).setdefault(code.co_qualname, code)


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """The agent's requests are no news."""


class OneProcessCloud:
    """API, controller and agent, stepped by hand; everything of it lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        from trilith.agent.host import build, switch
        from trilith.agent.source import HttpSource
        from trilith.cluster import api
        from trilith.cluster.bootstrap import bootstrap
        from trilith.cluster.cluster_file import all_in_one
        from trilith.cluster.network_controller import NetworkController
        from trilith.cluster.state import Settings, State
        from trilith.cluster.up import agent_settings

        state = State(directory)
        state.make_directories()
        os.environ["TRILITH_STATE"] = str(directory)
        self._server = make_server(ADDRESS, 0, self._serve, handler_class=Quiet)
        settings = Settings(
            cloud_id="0000", host="host1", cluster=all_in_one("host1"), port=self._server.server_port, fake=True
        )
        state.write_settings(settings)
        state.make_secrets(settings)
        bootstrap(state, settings)
        self.app: Wsgi = api.app()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        given = agent_settings(state, settings)
        self._source = HttpSource(settings.api_url, settings.host, state.secret("host-host1"))
        self._source.heartbeat("boot", {"vcpus": 8, "ram_mib": 8192, "disk_gib": 100}, {})
        machines = build(given, self._source, switch(given), lambda: None).machines
        assert machines is not None
        self._machines = machines
        self._network = NetworkController(state, settings, api.open_store(state, settings))
        self._token = ""
        self._token = self._sign_in(state.secret("demo"))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def request(self, method: str, path: str, body: Doc | None = None) -> Doc:
        """One call of the API in this thread; the reply's document, with its ``X-Subject-Token`` if it has one."""
        data = b"" if body is None else json.dumps(body).encode()
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(data)),
            "HTTP_X_AUTH_TOKEN": self._token,
            "HTTP_OPENSTACK_API_VERSION": "compute 2.93",
            "wsgi.input": io.BytesIO(data),
        }
        head: list[Any] = []
        content = b"".join(self.app(environ, lambda *given: head.extend(given)))
        if int(head[0][:3]) >= 300:
            sys.exit(f"{method} {path}: {head[0]} {content.decode()}")
        return dict(json.loads(content)) | {"token": dict(head[1]).get("X-Subject-Token")}

    def make_network(self) -> str:
        network = self.request("POST", "/networking/v2.0/networks", {"network": {"name": "one"}})["network"]
        subnet = {"network_id": network["id"], "cidr": "10.0.0.0/24", "ip_version": 4}
        self.request("POST", "/networking/v2.0/subnets", {"subnet": subnet})
        return str(network["id"])

    def server_body(self, network_id: str) -> Doc:
        image = self.request("GET", "/image/v2/images")["images"][0]["id"]
        flavor = self.request("GET", "/compute/v2.1/flavors")["flavors"][0]["id"]
        return {"server": {"name": "one", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network_id}]}}

    def bring_network(self) -> None:
        """What the controller does: the northbound rows, and which ports are up."""
        from trilith.kernel.reconcile import converge

        for key, want in self._network.wants("northbound").items():
            converge(self._network, key, want)

    def bring_server(self, server_id: str) -> None:
        """What the host's agent does for it: wants in, acts, report out."""
        from trilith.kernel.reconcile import converge

        want = self._source.wants("server")[server_id]
        outcome = converge(self._machines, server_id, want)
        self._source.report("server", server_id, want["generation"], outcome.seen, outcome.fault)

    def status(self, server_id: str) -> str:
        return str(self.request("GET", f"/compute/v2.1/servers/{server_id}")["server"]["status"])

    def _sign_in(self, password: str) -> str:
        user = {"name": "demo", "password": password, "domain": {"name": "Default"}}
        scope = {"project": {"name": "demo", "domain": {"name": "Default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": identity, "scope": scope}}
        return str(self.request("POST", "/identity/v3/auth/tokens", body)["token"])

    def _serve(self, environ: Doc, start_response: Wsgi) -> Any:
        # as a real server gives it: the body and no more
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        return self.app(environ, start_response)


def trace() -> tuple[Touched, Touched]:
    """What the request touches until it is answered, and what its host touches until the server runs."""
    logging.disable(logging.CRITICAL)
    recorder = Recorder()
    request, host = Touched(), Touched()
    with tempfile.TemporaryDirectory(prefix="trilith-trace-", ignore_cleanup_errors=True) as directory:
        cloud = OneProcessCloud(Path(directory))
        body = cloud.server_body(cloud.make_network())
        for asked, brought in ((Touched(), Touched()), (request, host)):
            with recorder.into(asked):
                server_id = cloud.request("POST", "/compute/v2.1/servers", body)["server"]["id"]
            cloud.bring_network()
            with recorder.into(brought):
                cloud.bring_server(server_id)
            cloud.bring_network()
            if (status := cloud.status(server_id)) != "ACTIVE":
                sys.exit(f"The server is {status}, not ACTIVE.")
        cloud.close()
    return request, host


def report(title: str, touched: Touched) -> str:
    """Each file with the lines of what ran in it, and the functions' names."""
    lines = [f"{title}: {len(touched.files)} files, {touched.functions} functions, {touched.lines} lines"]
    for name, functions in touched.files.items():
        ran = sum(_lines(code) for code in functions.values())
        whole = len((Path(OURS) / name).read_text().splitlines())
        names = textwrap.fill(" ".join(functions), 112, initial_indent="        ", subsequent_indent="        ")
        lines += [f"    {name} ({ran} of {whole} lines)", names]
    return "\n".join(lines)


def file_list(request: Touched, host: Touched) -> str:
    """As it stands in tests/trace.txt."""
    return "\n".join(["# until the answer", *request.files, "# until it runs", *host.files])


def summary(request: Touched, host: Touched) -> str:
    both = Touched()
    for name, functions in [*request.files.items(), *host.files.items()]:
        both.files.setdefault(name, {}).update(functions)
    kernel = sum(name.startswith("kernel/") for name in both.files)
    return (
        f"In all {len(both.files)} files, {both.functions} functions, {both.lines} lines; "
        f"{kernel} of the files are the kernel, which every operation shares."
    )


def _lines(code: CodeType) -> int:
    """Of a function as it is written, with its comments."""
    last = max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)
    return last - code.co_firstlineno + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="file names only")
    given = parser.parse_args()
    request, host = trace()
    if given.files:
        print(file_list(request, host))
        return
    print(report("POST /compute/v2.1/servers, until the answer (committed)", request))
    print(report("\nIts host, until it runs: wants, plan, acts, report (both ends)", host))
    print(f"\n{summary(request, host)}")


if __name__ == "__main__":
    main()
