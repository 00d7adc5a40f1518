"""The closed set of errors. A kind says what went wrong; `kernel.wire` alone knows what HTTP makes of it.

Public sentences say what, which, and what to do: ``Quota exceeded for cores: asked 8, used 18 of 20.``
"""

from typing import Any, Literal

Kind = Literal[
    "invalid",  # the request is wrong: 400
    "unauthenticated",  # no token, or one that is not valid any more: 401
    "forbidden",  # the caller may see the thing but not do this: 403
    "missing",  # does not exist, or the caller may not see it: 404
    "method",  # the path exists, the method does not: 405
    "not_acceptable",  # a version that is not supported: 406
    "conflict",  # its present state does not allow this: 409
    "gone",  # existed once, at no version any more: 410
    "precondition",  # If-Match did not match: 412
    "too_large",  # body over its limit: 413
    "bad_media",  # content type: 415
    "over_quota",  # each service has its own code for this
    "no_capacity",  # nothing left to give: addresses, hosts
    "unavailable",  # a part is away; try again: 503
    "bug",  # ours: 500
]


class Fault(Exception):
    """What a caller is told. `type_name` is the exception name that some services put on the wire
    (Neutron: ``NetworkInUse``); `detail` goes to the log only."""

    def __init__(self, kind: Kind, message: str, type_name: str = "", **detail: Any) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.type_name = type_name
        self.detail = detail


class Unavailable(Exception):
    """From a driver or a plan's performer: it cannot be done now; the runner tries again later.

    `kind` is what an API caller is told where it happens inside a request; subclasses may say otherwise. `again_s`:
    when that will be, for what only waits for its turn; None: the longer, the more often it failed.
    """

    kind: Kind = "unavailable"

    def __init__(self, message: str = "", again_s: float | None = None) -> None:
        super().__init__(message)
        self.again_s = again_s


class Refused(Exception):
    """From a driver: it can never be done as wanted. Terminal: the row goes to ERROR with this as its fault."""

    kind: Kind = "invalid"
