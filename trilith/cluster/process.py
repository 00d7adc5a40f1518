"""What the supervisor starts, watches and starts again: one foreground process, described as data."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """One foreground process. It must not detach; when it ends by itself, it is started again.

    `env` is added to the supervisor's environment. `netns` names the network namespace it runs in (None: the caller's).
    `ready` says, quickly and without raising, whether it serves. It is started once all of `after` (names) are ready.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    netns: str | None = None
    ready: Callable[[], bool] = lambda: True
    after: tuple[str, ...] = ()
