"""A power switch that is only pretended, with the interface of `drivers.fence_redfish.RedfishSwitch`."""

from collections.abc import Callable

from trilith.kernel.errors import Unavailable


class FakeSwitch:
    """`cut` is called when the power goes; `problem`: what the switch says in place of doing it."""

    def __init__(self, cut: Callable[[], None] = lambda: None) -> None:
        self.on, self.problem, self._cut = True, "", cut

    def is_on(self) -> bool:
        self._answer()
        return self.on

    def power_off(self) -> None:
        self._answer()
        if self.on:
            self._cut()
        self.on = False

    def power_on(self) -> None:
        self._answer()
        self.on = True

    def _answer(self) -> None:
        if self.problem:
            raise Unavailable(self.problem)
