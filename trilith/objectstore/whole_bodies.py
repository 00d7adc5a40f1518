"""Bodies that are read to their end before anything is done: lists of names, manifests. They are small."""

from collections.abc import Callable
from dataclasses import dataclass, field

from trilith.objectstore.calls import Call
from trilith.objectstore.messages import Answered, Response


@dataclass
class WholeBody:
    """An `Upload`. 413 with `too_large` when it is more than `limit_bytes`; `answer` is given all of it."""

    call: Call
    limit_bytes: int
    too_large: str
    answer: Callable[[bytes], Response]
    parts: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def write(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self.limit_bytes:
            raise Answered(413, self.too_large)
        self.parts.append(data)

    def finish(self) -> Response:
        length = self.call.request.length_bytes
        if length is not None and length != self.size_bytes:
            raise Answered(499)
        return self.answer(b"".join(self.parts))

    def abandon(self) -> None:
        self.parts.clear()
