"""A host's power switch that speaks Redfish: most servers' management controllers, and a rehearsal's.

A host counts as off when the switch says so after it was told to; nothing else is believed. Every connection is new, is
verified, and takes a bounded time.
"""

import base64
import contextlib
import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from trilith.kernel.errors import Refused, Unavailable

Doc = dict[str, Any]
ROOT = "/redfish/v1/Systems"
RESET = "#ComputerSystem.Reset"
POLL_S = 0.5


class RedfishSwitch:
    """`address`: ``https://HOST[:PORT]``. `password` is asked for each time, so that a new one counts at once.
    `system`: the host's name there; None: the only one."""

    def __init__(
        self,
        address: str,
        user: str,
        password: Callable[[], str],
        tls: Callable[[], ssl.SSLContext],
        system: str | None = None,
        answer_s: float = 5.0,
        off_within_s: float = 20.0,
    ) -> None:
        self._address = urllib.parse.urlsplit(address)
        self._user, self._password, self._tls = user, password, tls
        self._system, self._answer_s, self._off_within_s = system, answer_s, off_within_s

    def is_on(self) -> bool:
        """False only when the switch says ``Off``: on its way there is not there."""
        return bool(self._read(self._path())["PowerState"] != "Off")

    def power_off(self) -> None:
        """At once, as a cut cable; returns when the switch says that it is off."""
        self._turn("ForceOff", False)

    def power_on(self) -> None:
        """Returns when the switch says that it is on; booting takes longer."""
        self._turn("On", True)

    def _turn(self, how: str, on: bool) -> None:
        path = self._path()
        system = self._read(path)
        if (system["PowerState"] != "Off") == on:
            return
        action = system.get("Actions", {}).get(RESET, {})
        known = action.get("ResetType@Redfish.AllowableValues", [how])
        if how not in known:
            raise Refused(f"{self._address.netloc} knows no {how}, only {', '.join(known)}.")
        self._ask("POST", action.get("target", f"{path}/Actions/ComputerSystem.Reset"), {"ResetType": how})
        deadline = time.monotonic() + self._off_within_s
        while self.is_on() != on:
            if time.monotonic() > deadline:
                took = f"{self._address.netloc} was told {how}, and {self._off_within_s:g} s later it is not so."
                raise Unavailable(took)
            time.sleep(POLL_S)

    def _path(self) -> str:
        if self._system is not None:
            return f"{ROOT}/{urllib.parse.quote(self._system)}"
        members = self._ask("GET", ROOT).get("Members", [])
        if len(members) != 1:
            names = ", ".join(str(each.get("@odata.id", "")).rpartition("/")[2] for each in members)
            raise Refused(f"{self._address.netloc} has {len(members)} systems ({names}); name one: `system`.")
        return str(members[0]["@odata.id"])

    def _read(self, path: str) -> Doc:
        system = self._ask("GET", path)
        if not isinstance(system.get("PowerState"), str):
            raise Unavailable(f"{self._address.netloc} does not say whether its host is on.")
        return system

    def _ask(self, method: str, path: str, body: Doc | None = None) -> Doc:
        name = self._address.netloc
        try:
            content = None if body is None else json.dumps(body)
            connection = http.client.HTTPSConnection(name, timeout=self._answer_s, context=self._tls())
            with contextlib.closing(connection):
                connection.request(method, path, content, self._headers())
                reply = connection.getresponse()
                status, text = reply.status, reply.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{name} does not answer: {error}.") from error
        if status in (401, 403):
            raise Unavailable(f"{name} does not let us in ({status}): see `user` and `password_file`.")
        if status == 404:
            raise Refused(f"{name} has no {path}.")
        if status >= 300 and not (method == "POST" and status in (400, 409)):  # it may be off by now: see what it says
            raise Unavailable(f"{name} answers {status} to {method} {path}.")
        try:
            document = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise Unavailable(f"{name} answers something that is no JSON.") from error
        return document if isinstance(document, dict) else {}

    def _headers(self) -> dict[str, str]:
        secret = base64.b64encode(f"{self._user}:{self._password()}".encode()).decode()
        return {
            "Authorization": f"Basic {secret}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "OData-Version": "4.0",
        }
