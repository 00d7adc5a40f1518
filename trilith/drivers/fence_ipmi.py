"""A host's power switch that speaks IPMI 2.0, by ipmitool. The password goes to it in its environment."""

import os
import subprocess
import time
from collections.abc import Callable

from trilith.kernel.errors import Refused, Unavailable

PROGRAM = "ipmitool"
TIMEOUT_S, TRIES = 2, 2  # of each message
POLL_S = 0.5
ON, OFF = "chassis power is on", "chassis power is off"


class IpmiSwitch:
    """`address`: ``HOST[:PORT]``. `password` is asked for each time, so that a new one counts at once. `cipher`: the
    suite that the switch is spoken to with; None: it is asked, which takes seconds where it does not say."""

    def __init__(
        self,
        address: str,
        user: str,
        password: Callable[[], str],
        cipher: int | None = None,
        answer_s: float = 15.0,
        off_within_s: float = 20.0,
    ) -> None:
        self._host, _, port = address.partition(":")
        self._port, self._user, self._password = port or "623", user, password
        self._cipher = [] if cipher is None else ["-C", str(cipher)]
        self._answer_s, self._off_within_s = answer_s, off_within_s

    def is_on(self) -> bool:
        said = self._run("status").lower()
        if ON not in said and OFF not in said:
            raise Unavailable(f"{self._host} does not say whether its host is on: {said.strip()[:200]}")
        return OFF not in said

    def power_off(self) -> None:
        """At once, as a cut cable; returns when the switch says that it is off."""
        self._turn("off", False)

    def power_on(self) -> None:
        """Returns when the switch says that it is on; booting takes longer."""
        self._turn("on", True)

    def _turn(self, how: str, on: bool) -> None:
        if self.is_on() == on:
            return
        self._run(how)
        deadline = time.monotonic() + self._off_within_s
        while self.is_on() != on:
            if time.monotonic() > deadline:
                raise Unavailable(f"{self._host} was told {how}, and {self._off_within_s:g} s later it is not so.")
            time.sleep(POLL_S)

    def _run(self, what: str) -> str:
        words = [PROGRAM, "-I", "lanplus", "-H", self._host, "-p", self._port, "-U", self._user, "-E"]
        words += [*self._cipher, "-L", "OPERATOR", "-N", str(TIMEOUT_S), "-R", str(TRIES), "chassis", "power", what]
        environment = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        environment |= {"IPMI_PASSWORD": self._password(), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=self._answer_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise Refused(f"{PROGRAM} is not installed on this controller.") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{self._host} does not answer within {self._answer_s:g} s.") from error
        if done.returncode:
            raise Unavailable(f"{self._host}: {done.stderr.strip()[-200:] or 'no answer'}.")
        return done.stdout
