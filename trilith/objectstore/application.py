"""The ASGI application: bytes to and from the network here, everything that blocks in threads.

A slow client holds no thread: bodies come and go in pieces, each of which is a short call. The server says
``http.disconnect`` where a body ends before its time, also one in chunks; what came of it is dropped.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trilith.kernel.logs import REQUEST_ID
from trilith.objectstore.messages import Answered, Headers, Request, Response, Upload, page
from trilith.objectstore.pipeline import Front, answer_to

log = logging.getLogger("trilith.objects")
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

CLIENT_S = 60.0  # that a client is waited for between two pieces of its body
DRAIN_BYTES = 1 << 20  # of a body that nobody wants
DRAIN_S = 1.0
GATHER_BYTES = 256 << 10  # small pieces are written together
WITHOUT_LENGTH = (204, 304)


class Body:
    """The body of one request. `over`: nothing more comes."""

    def __init__(self, request: Request, receive: Receive) -> None:
        self._receive = receive
        self.over = not request.chunked and request.headers.get("content-length", "0") == "0"

    async def piece(self, timeout_s: float = CLIENT_S) -> bytes:
        """Raises 408 for a client that says nothing more, 499 for one that is gone."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._receive()
        except TimeoutError:
            self.over = True
            raise Answered(408) from None
        if message["type"] == "http.disconnect":
            self.over = True
            raise Answered(499)
        self.over = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data

    async def gathered(self, first: bytes) -> AsyncIterator[bytes]:
        """All of it behind `first`, in pieces that are worth a call."""
        parts, size = [first], len(first)
        while not self.over:
            parts.append(await self.piece())
            size += len(parts[-1])
            if size >= GATHER_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        yield b"".join(parts)

    async def drain(self) -> None:
        """Takes a little more of what nobody wants: a client that still sends does not look at the answer."""
        ends_s, size = time.monotonic() + DRAIN_S, 0
        with contextlib.suppress(Answered):
            while not self.over and size < DRAIN_BYTES and (left_s := ends_s - time.monotonic()) > 0:
                size += len(await self.piece(left_s))


class Application:
    """`threads` calls at a time in this process. `behind_proxy`: ``X-Forwarded-For`` says who the client is."""

    def __init__(self, front: Front, threads: int = 16, behind_proxy: bool = False) -> None:
        self.front, self.behind_proxy = front, behind_proxy
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="objects")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        started = time.monotonic()
        request = request_of(scope, self.behind_proxy)
        response = await self._answer(request, receive)
        try:
            await self._send(request, response, receive, send)
        finally:
            _log(request, response, started)
            if not isinstance(response.body, bytes) or response.on_close is not None:
                await self._tried(request, response.close)

    # in
    async def _answer(self, request: Request, receive: Receive) -> Response:
        body, first, waits = Body(request, receive), b"", request.headers.get("expect", "").lower() == "100-continue"
        try:
            if not body.over and not waits:
                first = await body.piece()
        except Answered as cut:
            return cut.response
        if body.over:
            response, error = await self._tried(request, lambda: self._at_once(request, first))
            return response if response is not None else self._page(request, error)
        begun, error = await self._tried(request, lambda: self.front.begin(request))
        if begun is not None and not isinstance(begun, Response):
            return await self._upload(request, begun, body, first)
        if not waits:  # one who waits has sent nothing, and need not
            await body.drain()
        return begun if begun is not None else self._page(request, error)

    def _at_once(self, request: Request, body: bytes) -> Response:
        """A request whose body is there already: one call."""
        begun = self.front.begin(request)
        if isinstance(begun, Response):
            return _whole_if_small(begun)
        try:
            begun.write(body)
            return begun.finish()
        finally:
            begun.abandon()

    async def _upload(self, request: Request, upload: Upload, body: Body, first: bytes) -> Response:
        try:
            async for data in body.gathered(first):
                _, error = await self._tried(request, lambda data=data: upload.write(data))  # type: ignore[misc]
                if error is not None:
                    await body.drain()
                    return self._page(request, error)
            response, error = await self._tried(request, upload.finish)
            return response if response is not None else self._page(request, error)
        except Answered as cut:
            return cut.response
        finally:
            await self._tried(request, upload.abandon)

    # out
    async def _send(self, request: Request, response: Response, receive: Receive, send: Send) -> None:
        pieces = None if isinstance(response.body, bytes) else response.body
        if pieces is None:
            await _start(request, response, send)
            shown = b"" if request.method == "HEAD" else response.body
            await send({"type": "http.response.body", "body": shown})
            return
        data, error = await self._tried(request, lambda: next(pieces, b""))
        if error is not None:  # nothing was said yet
            response_to_it = self._page(request, error)
            await _start(request, response_to_it, send)
            await send({"type": "http.response.body", "body": response_to_it.whole()})
            return
        await _start(request, response, send)
        gone = asyncio.create_task(_gone(receive))
        try:
            while data and not gone.done():
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data, error = await self._tried(request, lambda: next(pieces, b""))
                if error is not None:
                    log.error("a download was cut short: %s", error, extra={"request_id": request.trans_id})
                    raise error  # the server breaks the connection: less comes than was promised
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _tried(self, request: Request, work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
        """(what it returned, what it raised), in a thread."""

        def run() -> T:
            REQUEST_ID.set(request.trans_id)
            return work()

        # by hand, because a future of asyncio's around this one costs as much again
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        future = self._threads.submit(run)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(_wake, done))
        await done
        error = future.exception()
        return (None, error) if error is not None else (future.result(), None)

    def close(self) -> None:
        self._threads.shutdown()

    def _page(self, request: Request, error: BaseException | None) -> Response:
        found = answer_to(error) if error is not None else None
        if found is None:
            log.error("request failed", exc_info=error, extra={"request_id": request.trans_id})
            return page(500)
        return found


def _wake(done: "asyncio.Future[None]") -> None:
    if not done.done():  # else nobody waits any more
        done.set_result(None)


def _whole_if_small(response: Response) -> Response:
    """Read in the call that found it, which saves two others."""
    if isinstance(response.body, bytes) or (response.length or GATHER_BYTES) >= GATHER_BYTES:
        return response
    try:
        return Response(response.status, response.headers, b"".join(response.body))
    finally:
        response.close()


def _log(request: Request, response: Response, started: float) -> None:
    """Without the query, in which signatures stand."""
    extra = {
        "request_id": request.trans_id,
        "user_id": request.user_id,
        "project_id": request.project_id,
        "bytes": response.length,
        "ms": round((time.monotonic() - started) * 1000, 1),
    }
    log.log(
        logging.DEBUG if request.raw_path == "/healthz" else logging.INFO,  # the supervisor asks it often
        "%s %s %s",
        request.method,
        request.raw_path,
        response.status,
        extra=extra,
    )


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone: the server itself takes and drops what is sent to it then."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(request: Request, response: Response, send: Send) -> None:
    headers: Headers = {**response.headers, "x-trans-id": request.trans_id, "x-openstack-request-id": request.trans_id}
    if response.length is not None and response.status not in WITHOUT_LENGTH:
        headers["content-length"] = str(response.length)
    raw = [(name.encode("latin-1"), _value(value)) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": raw})


def _value(value: str) -> bytes:
    """A header cannot hold line ends, whatever somebody put into a name."""
    return value.replace("\r", "").replace("\n", "").encode("latin-1", "replace")


def request_of(scope: Message, behind_proxy: bool) -> Request:
    """What the server tells of a request."""
    headers: Headers = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    peer = (scope.get("client") or ("",))[0]
    if behind_proxy:
        peer = headers.get("x-forwarded-for", peer).rpartition(",")[2].strip()
    trans_id = f"tx{secrets.token_hex(11)[:21]}-{int(time.time()):010x}"
    raw_path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return Request(scope["method"], raw_path, query, headers, scope.get("scheme", "http"), peer, trans_id)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
