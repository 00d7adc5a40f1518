"""One request: THE pipeline, in order, for every operation of every service.

    request id -> route -> body bytes -> token -> version -> JSON -> accept -> [transaction: find, policy, quota,
    run, view] -> reply

What an operation means is declared; how a service speaks is in `kernel.wire`. Everything that goes wrong becomes a
`Fault` here, once.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from trilith.kernel import quota
from trilith.kernel.declare import SERVICES, Noun, Service
from trilith.kernel.errors import Fault, Refused, Unavailable
from trilith.kernel.kinds import Bad
from trilith.kernel.logs import REQUEST_ID
from trilith.kernel.paging import fetch, path_columns
from trilith.kernel.policy import NOBODY, Principal
from trilith.kernel.request import Ctx, Reply, forbidden
from trilith.kernel.router import Operation, Router, split_path
from trilith.kernel.store import Store, Tx
from trilith.kernel.versions import at_version
from trilith.kernel.wire import TITLES, PlainWire

log = logging.getLogger("trilith.http")
Environ = dict[str, Any]
Row = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Authenticate = Callable[[Tx, Mapping[str, str]], Principal]

MAX_BODY = 1 << 20
encode = msgspec.json.encode


class App:
    """The WSGI application over every declared service.

    `authenticate(tx, headers)` makes the caller of a request's headers or raises `Fault("unauthenticated")`.
    `settings` is what services may ask of the cloud (public host names, directories), read only.
    """

    def __init__(self, store: Store, authenticate: Authenticate, settings: Mapping[str, Any] | None = None) -> None:
        self.store, self.authenticate, self.settings = store, authenticate, settings or {}
        self.router = Router(SERVICES)
        self.nowhere = Service("nowhere", "nowhere", "", PlainWire(), listed=False)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started = time.monotonic()
        ctx = self._request(environ)
        REQUEST_ID.set(ctx.request_id)
        try:
            reply = self._answer(ctx, environ)
        except Bad as bad:
            reply = self._fault(ctx, ctx.service.wire.bad(bad))
        except Fault as fault:
            reply = self._fault(ctx, fault)
        except (Unavailable, Refused) as error:
            reply = self._fault(ctx, Fault(error.kind, str(error)))
        except Exception:  # the other of the two places where everything is caught
            log.exception("request failed", extra={"request_id": ctx.request_id})
            message = "Unexpected API Error. Please report this with the request id."
            reply = self._fault(ctx, Fault("bug", message))
        return self._send(ctx, reply, start_response, started)

    # the pipeline
    def _request(self, environ: Environ) -> Ctx:
        headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                headers[name.replace("_", "-").lower()] = environ[name]
        path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace")
        for service in SERVICES:
            if service.plain_prefix and path.startswith(f"{service.plain_prefix}/") and len(split_path(path)) > 2:
                path = service.prefix + path.removeprefix(service.plain_prefix)
                headers = {k: value for k, value in headers.items() if not k.endswith("api-version")}
        scheme = headers.get("x-forwarded-proto", environ.get("wsgi.url_scheme", "http"))
        parts = split_path(path)
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True):
            query.setdefault(name, []).append(value)
        if "transfer-encoding" in headers and (chunked := self.settings.get("chunked_body")):
            environ["wsgi.input"] = chunked(environ)
        return Ctx(
            store=self.store,
            service=self.router.service_of(parts) or self.nowhere,
            method=environ["REQUEST_METHOD"],
            url_path=path,
            base_url=f"{scheme}://{headers.get('host', 'localhost')}",
            request_id=f"req-{uuid.uuid4()}",
            headers=headers,
            query=query,
            settings=self.settings,
            read_body=environ["wsgi.input"].read,
        )

    def _answer(self, ctx: Ctx, environ: Environ) -> Reply:
        operations = self._route(ctx)
        public = bool(operations) and all(o.route is not None and o.route.policy == "public" for o in operations)
        streams = any(o.route is not None and o.route.stream for o in operations)
        raw = None if streams else self._read(ctx)
        if not public and not streams and not any(operation.writes(ctx.method) for operation in operations):
            reply = self.store.read(lambda tx: self._asked(ctx, operations, raw, self._caller(ctx, tx), tx))
        else:
            who = NOBODY if public else self.store.read(lambda tx: self._caller(ctx, tx))
            reply = self._asked(ctx, operations, raw, who)
        if callable(reply.body):
            reply.body = reply.body()
        return reply

    def _caller(self, ctx: Ctx, tx: Tx) -> Principal:
        who = self.authenticate(tx, ctx.headers)
        if who.may_call and not who.may_call(ctx.service.type, ctx.method, ctx.url_path):
            raise forbidden(f"{ctx.method} {ctx.url_path}")
        return who

    def _asked(
        self, ctx: Ctx, operations: list[Operation], raw: bytes | None, who: Principal, tx: Tx | None = None
    ) -> Reply:
        """From the caller to the reply; `tx` where one transaction holds both, because nothing is written."""
        ctx.who = who
        if ctx.service.versions:
            ctx.at = ctx.service.versions.oldest
            ctx.at = ctx.service.versions.asked(ctx.headers)
        operation = self._choose(ctx, operations)
        ctx.path |= dict(zip(operation.variables, ctx.path_values, strict=True))
        if raw is not None:
            ctx.body = self._parse(ctx, operation, raw)
        return self._run(ctx, operation, tx)

    def _route(self, ctx: Ctx) -> list[Operation]:
        """The operations of this path and method; [] where there are none."""
        parts = split_path(ctx.url_path)
        if ctx.service.wire.empty_id_is_missing and ctx.url_path.endswith("/") and len(parts) > 2:
            return []
        found = self.router.find(parts)
        depth = len(split_path(ctx.service.prefix))
        if found is None and ctx.service.project_in_path and len(parts) > depth + 1:
            ctx.path["project"] = parts[depth]
            found = self.router.find(parts[:depth] + parts[depth + 1 :])
        if found is None:
            return []
        node, ctx.path_values = found
        method = "GET" if ctx.method == "HEAD" and "HEAD" not in node.operations else ctx.method
        operations = node.operations.get(method, [])
        if not operations and not ctx.url_path.endswith("/"):  # else an id is missing: nothing is there
            ctx.reply_headers.append(("Allow", ", ".join(sorted(node.operations))))
        return operations

    def _choose(self, ctx: Ctx, operations: list[Operation]) -> Operation:
        """The operation that exists at the asked version."""
        if not operations:
            if any(name == "Allow" for name, _ in ctx.reply_headers):
                raise Fault("method", "The method is not allowed for this resource.")
            raise Fault("missing", "The resource could not be found.", "HTTPNotFound")
        if "project" in ctx.path and ctx.path["project"] != ctx.who.project_id and not ctx.who.is_admin:
            raise Fault("invalid", "Malformed request url: the project in it is not the token's")
        for operation in operations:
            span = operation.route or operation.noun
            assert span is not None
            noun = operation.noun
            if span.since <= ctx.at <= span.until and (noun is None or noun.since <= ctx.at <= noun.until):
                return operation
        raise Fault("missing", "The resource could not be found.")

    def _read(self, ctx: Ctx) -> bytes:
        length = ctx.headers.get("content-length", "")
        if length and (not length.isdigit() or int(length) > MAX_BODY):
            raise Fault("too_large", f"Request is too large: at most {MAX_BODY} bytes are taken here.")
        if not length and "transfer-encoding" not in ctx.headers:
            return b""
        most = int(length) if length else MAX_BODY + 1
        raw = b""
        while len(raw) < most and (part := ctx.read_body(most - len(raw))):
            raw += part
        if len(raw) > MAX_BODY:
            raise Fault("too_large", f"Request is too large: at most {MAX_BODY} bytes are taken here.")
        return raw

    def _parse(self, ctx: Ctx, operation: Operation, raw: bytes) -> Any:
        if not raw:
            return None
        media = ctx.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        more = operation.route.media if operation.route else ()
        if media not in ("application/json", *more) or (more and media not in more):
            raise Fault(
                "bad_media", f"Unsupported Content-Type {media}, must be {' or '.join(more or ('application/json',))}"
            )
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Fault("invalid", "Malformed request body: it is not valid JSON", "HTTPBadRequest") from None

    def _run(self, ctx: Ctx, operation: Operation, tx: Tx | None) -> Reply:
        run = getattr(self, "_irregular" if operation.kind == "route" else f"_{operation.kind}")
        inputs = self._inputs(ctx, operation)
        route = operation.route
        if route is not None and route.stream:
            return run(ctx, operation, inputs)  # type: ignore[no-any-return]

        def work(tx: Tx) -> Reply:
            ctx.enter(tx)
            ctx.reply_headers = [h for h in ctx.reply_headers if h[0] == "Allow"]
            noun = operation.noun
            if noun is not None and noun.parent is not None:
                name = [part for part in noun.path.split("/") if part.startswith("{")][-1][1:-1]
                ctx.parent = tx.get(noun.parent, ctx.path[name], noun.parent.scope(ctx))
            return run(ctx, operation, inputs)  # type: ignore[no-any-return]

        return work(tx) if tx is not None else self.store.run(work, operation.writes(ctx.method))

    def _inputs(self, ctx: Ctx, operation: Operation) -> Any:
        """The body, checked against the declaration, before any transaction is open."""
        noun, route = operation.noun, operation.route
        if route is not None:
            return route.body.check(ctx.body, "body", ctx.at) if route.body is not None else ctx.body
        assert noun is not None
        if operation.kind in ("create", "update"):
            self._require(ctx, noun, operation.kind, None)
            content = ctx.service.wire.unwrap(noun, ctx.body, operation.kind)
            mode: Any = operation.kind
            if isinstance(content, list) and ctx.service.wire.bulk:
                return [noun.accept(ctx, item, mode) for item in content]
            return noun.accept(ctx, content, mode)
        if operation.kind == "action":
            if not isinstance(ctx.body, dict) or len(ctx.body) != 1:
                raise Fault("invalid", "The body must hold exactly one action")
            name, body = next(iter(ctx.body.items()))
            verb = noun.verbs.get(name)
            if verb is None or not verb.since <= ctx.at <= verb.until:
                raise Fault("invalid", f"There is no such action: {name}")
            return name, verb.body.check(body, name, ctx.at)
        return None

    # the regular operations
    def _require(self, ctx: Ctx, noun: Noun, operation: str, row: Row | None) -> None:
        if not ctx.may(noun.policy[operation], row):
            raise forbidden(f"{noun.service.name}:{noun.plural}:{operation}")

    def _code(self, noun: Noun, kind: str, ctx: Ctx) -> int:
        return at_version(noun.status.get(kind, ctx.service.wire.statuses[kind]), ctx.at)

    def _member(self, ctx: Ctx, noun: Noun) -> Row:
        equals = {name: ctx.path[name] for name in path_columns(noun)}
        if (row := ctx.tx.one(noun, noun.scope(ctx), **equals, **{noun.key: ctx.path["id"]})) is None:
            raise noun.missing(ctx.path["id"])
        return row

    def _list(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        self._require(ctx, noun, "list", None)
        wire = ctx.service.wire
        if custom := noun.operations.get("list"):
            rows = custom(ctx)
            if isinstance(rows, Reply):
                return rows
            return Reply({noun.plural: ctx.show_all(noun, rows, noun.detail and operation.kind == "list")}, 200)
        listing = wire.listing(ctx, noun)
        page = fetch(ctx, noun, listing)
        views = ctx.show_all(noun, page.rows, noun.detail and operation.kind == "list")
        return Reply(wire.wrap_list(ctx, noun, views, page, listing), self._code(noun, "list", ctx))

    _detail = _list

    def _show(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        row = self._member(ctx, noun)
        self._require(ctx, noun, "show", row)
        if custom := noun.operations.get("show"):
            row = custom(ctx, row)
        return self._view(ctx, noun, row, "show")

    def _create(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        many = inputs if isinstance(inputs, list) else [inputs]
        rows = []
        for new in many:
            new = dict(new)
            self._own(ctx, noun, new)
            for name in path_columns(noun):
                new[name] = ctx.path[name]
            new["id"] = new.get("id") or ctx.service.wire.new_id(ctx)
            if noun.quota:
                quota.check(ctx.tx, noun.service, new[noun.owner or "project_id"], **{noun.quota.name: 1})
            custom = noun.operations.get("create")
            rows.append(custom(ctx, new) if custom else ctx.tx.insert(noun, new))
        if isinstance(rows[0], Reply):
            return rows[0]
        if isinstance(inputs, list):
            return Reply({noun.plural: ctx.show_all(noun, rows)}, self._code(noun, "create", ctx))
        return self._view(ctx, noun, rows[0], "create")

    def _own(self, ctx: Ctx, noun: Noun, new: Row) -> None:
        """Fills in whose it is; only administrators make things for others."""
        if noun.owner is None:
            return
        mine = ctx.who.user_id if noun.owner == "user_id" else ctx.who.project_id
        if new.get(noun.owner) is None:
            if mine is None:  # a token of a domain, or of the system
                raise forbidden(f"{noun.service.name}:{noun.plural}:create")
            new[noun.owner] = mine
        elif new[noun.owner] != mine and not ctx.who.is_admin:
            raise noun.service.wire.foreign_owner(noun)

    def _update(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        row = self._member(ctx, noun)
        self._require(ctx, noun, "update", row)
        ctx.service.wire.precondition(ctx, noun, row)
        changes = dict(inputs)
        if noun.extra is not None and "extra" in changes:
            merged = {**(row["extra"] or {}), **changes["extra"]}
            changes["extra"] = {k: value for k, value in merged.items() if value is not None}
        custom = noun.operations.get("update")
        row = custom(ctx, row, changes) if custom else ctx.tx.update(noun, row, **changes)
        return self._view(ctx, noun, row, "update")

    def _delete(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        row = self._member(ctx, noun)
        self._require(ctx, noun, "delete", row)
        ctx.service.wire.precondition(ctx, noun, row)
        custom = noun.operations.get("delete")
        if custom is None:
            ctx.tx.delete(noun, row)
        elif isinstance(done := custom(ctx, row), Reply):
            return done
        return Reply(None, self._code(noun, "delete", ctx))

    def _action(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        noun = operation.noun
        assert noun is not None
        name, body = inputs
        verb = noun.verbs[name]
        row = self._member(ctx, noun)
        if not ctx.may(verb.policy, row):
            raise forbidden(f"{noun.service.name}:{noun.plural}:{name}")
        return self._finish(ctx, verb.run(ctx, row, body), at_version(verb.status, ctx.at))

    def _irregular(self, ctx: Ctx, operation: Operation, inputs: Any) -> Reply:
        route, noun = operation.route, operation.noun
        assert route is not None
        ctx.body = inputs
        row = None
        if route.member and not route.stream:
            assert noun is not None
            row = self._member(ctx, noun)
        if not ctx.may(route.policy, row):
            raise forbidden(f"{ctx.service.name}:{operation.label}")
        found = route.run(ctx, row) if row is not None else route.run(ctx)
        return self._finish(ctx, found, at_version(route.status, ctx.at))

    def _view(self, ctx: Ctx, noun: Noun, row: Row | Reply, kind: str) -> Reply:
        if isinstance(row, Reply):
            return row
        wire = ctx.service.wire
        return Reply(wire.wrap(noun, wire.chosen(ctx, ctx.show(noun, row))), self._code(noun, kind, ctx))

    def _finish(self, ctx: Ctx, found: Any, status: int) -> Reply:
        reply = found if isinstance(found, Reply) else Reply(found)
        if reply.status is None:
            reply.status = status
        return reply

    # the reply
    def _fault(self, ctx: Ctx, fault: Fault) -> Reply:
        if fault.kind == "unauthenticated":
            body: Any = {"error": {"code": 401, "title": "Unauthorized", "message": fault.message}}
            reply = Reply(body, 401, [("WWW-Authenticate", f'Keystone uri="{ctx.base_url}/identity"')])
        else:
            reply = Reply(ctx.service.wire.error(fault, ctx), ctx.service.wire.status(fault))
        if fault.kind == "unavailable":
            reply.headers.append(("Retry-After", "1"))
        if isinstance(reply.body, bytes):
            reply.headers.append(("Content-Type", "text/html; charset=UTF-8"))
        return reply

    def _send(self, ctx: Ctx, reply: Reply, start_response: StartResponse, started: float) -> Iterable[bytes]:
        code = reply.status or 200
        headers = [("X-Openstack-Request-Id", ctx.request_id), *ctx.reply_headers, *reply.headers]
        headers += ctx.service.wire.headers(ctx)
        if ctx.service.versions:
            headers += ctx.service.versions.reply_headers(ctx.at)
        names = {name.lower() for name, _ in headers}
        body = reply.body
        if body is None or code in (204, 304):
            content: Iterable[bytes] = []
            headers.append(("Content-Length", "0")) if code not in (204, 304) else None
        elif isinstance(body, dict | list | str):
            data = encode(body)
            content = [data]
            headers += [("Content-Type", "application/json")] if "content-type" not in names else []
            headers.append(("Content-Length", str(len(data))))
        elif isinstance(body, bytes):
            content = [body]
            headers.append(("Content-Length", str(len(body))))
        else:
            content = body
        if ctx.method == "HEAD":
            content = []
        start_response(f"{code} {TITLES.get(code, 'OK')}", headers)
        log.log(
            logging.DEBUG if ctx.who.host and code < 400 else logging.INFO,  # hosts ask each second
            "%s %s %s",
            ctx.method,
            ctx.url_path,
            code,
            extra={
                "request_id": ctx.request_id,
                "global_request_id": ctx.headers.get("x-openstack-request-id"),
                "user_id": ctx.who.user_id if ctx.who is not NOBODY else None,
                "project_id": ctx.who.project_id,
                "ms": round((time.monotonic() - started) * 1000, 1),
            },
        )
        return content
