"""Tokens: made, checked, shown, revoked. A token is checked from SQL at every use, so that what was disabled,
deleted, taken away or changed since counts at once."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trilith.identity import relations, rules
from trilith.identity.access_rules import limit
from trilith.identity.application_credentials import APPLICATION_CREDENTIAL, is_expired
from trilith.identity.credentials import bearer
from trilith.identity.domains import DOMAIN
from trilith.identity.endpoints import catalog
from trilith.identity.facts import Facts, Scope, domains_of, facts, has_system_role, implied_roles, projects_of
from trilith.identity.fernet import Keys, Letter
from trilith.identity.groups import listed
from trilith.identity.projects import PROJECT
from trilith.identity.remembered import remembered
from trilith.identity.users import USER, unauthorized
from trilith.identity.versions import IDENTITY, list_links
from trilith.kernel.errors import Fault
from trilith.kernel.policy import Principal
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx

Row = dict[str, Any]
LIFETIME_S = 3600
EXPIRED_STILL_SHOWN_S = 48 * 3600  # for ?allow_expired=1: long work of services


@dataclass(frozen=True)
class Session:
    """A token that is valid now."""

    letter: Letter
    facts: Facts
    roles: tuple[Row, ...]
    application_credential: Row | None = None

    @property
    def scope(self) -> Scope:
        return Scope(self.letter.scope, self.letter.scope_id)


_keys: Keys | None = None


def use_keys(cluster_key: str) -> None:
    """What the keys in SQL are sealed with (see `fernet`)."""
    global _keys
    _keys = Keys(cluster_key)


def keys() -> Keys:
    if _keys is None:
        raise RuntimeError("use_keys(cluster_key) was not called")
    return _keys


def now_us() -> int:
    return time.time_ns() // 1000


# checking
def authenticate(tx: Tx, headers: Mapping[str, str]) -> Principal:
    """Who asks, by token or by a host's credential. `Fault` 401 where that is nobody now."""
    if authorization := headers.get("authorization"):
        if (found := bearer(tx, authorization)) is None:
            raise unauthorized()
        return found
    token = headers.get("x-auth-token")
    session = open_token(tx, token) if token else None
    if session is None:
        raise unauthorized()
    return principal(session)


def principal(session: Session) -> Principal:
    known, credential = session.facts, session.application_credential
    scope = session.scope
    return Principal(
        user_id=known.user["id"],
        project_id=scope.id if scope.kind == "project" else None,
        domain_id=scope.id if scope.kind == "domain" else None,
        system=scope.kind == "system",
        roles=frozenset(role["name"] for role in session.roles),
        user_domain_id=known.user_domain["id"],
        project_domain_id=known.domain["id"] if known.project and known.domain else None,
        token={
            "methods": session.letter.methods,
            "audit_ids": session.letter.audit_ids,
            "user_name": known.user["name"],
            "project_name": known.project["name"] if known.project else None,
            "role_ids": tuple(role["id"] for role in session.roles),
            "restricted": credential is not None and not credential["unrestricted"],
        },
        may_call=limit(credential["access_rules"]) if credential and credential["access_rules"] else None,
    )


def open_token(tx: Tx, token: str, grace_s: int = 0) -> Session | None:
    """None for a token that is not ours, or not valid any more; up to `grace_s` after its end it still is."""
    letter = keys().open(tx, token)
    if letter is None or letter.expires_us + grace_s * 1_000_000 <= now_us():
        return None
    known = facts(tx, letter.user_id, Scope(letter.scope, letter.scope_id), letter.audit_ids[0])
    if known is None or known.epochs != letter.epochs:
        return None
    return session_of(tx, letter, known)


def session_of(tx: Tx, letter: Letter, known: Facts) -> Session | None:
    """None where there is a scope but no role in it, or the application credential has gone."""
    roles, credential = known.roles, None
    if letter.application_credential_id:
        key = letter.application_credential_id
        credential = remembered(tx, ("credential", key), lambda: tx.one(APPLICATION_CREDENTIAL, id=key))
        if credential is None or is_expired(credential):
            return None
        implied = remembered(tx, ("implied", key), lambda: implied_roles(tx, credential["roles"]))
        lent = {role["id"] for role in implied}
        roles = tuple(role for role in roles if role["id"] in lent)
    if letter.scope != "none" and not roles:
        return None
    return Session(letter, known, roles, credential)


# making
def issue(
    tx: Tx,
    user_id: str,
    scope: Scope,
    methods: tuple[str, ...],
    *,
    lifetime_s: int = LIFETIME_S,
    expires_us: int | None = None,
    parent_audit_id: str | None = None,
    application_credential_id: str = "",
) -> tuple[str, Session] | None:
    """A new token, sealed; None where the user may not go there. Stores nothing."""
    known = facts(tx, user_id, scope)
    if known is None:
        return None
    issued_us = now_us()
    ends_us = issued_us - issued_us % 1_000_000 + lifetime_s * 1_000_000
    audit_id = secrets.token_urlsafe(16)
    letter = Letter(
        user_id=user_id,
        methods=methods,
        scope=scope.kind,
        scope_id=scope.id,
        issued_us=issued_us,
        expires_us=min(ends_us, expires_us or ends_us),
        audit_ids=(audit_id, parent_audit_id) if parent_audit_id else (audit_id,),
        epochs=known.epochs,
        application_credential_id=application_credential_id,
    )
    session = session_of(tx, letter, known)
    return (keys().seal(tx, letter), session) if session else None


# showing
def iso(moment_us: int) -> str:
    moment = datetime.fromtimestamp(moment_us / 1_000_000, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def microseconds(moment: str) -> int:
    """Of a time as rows hold it."""
    return int(datetime.fromisoformat(f"{moment}+00:00").timestamp() * 1_000_000)


def token_body(ctx: Ctx, session: Session, with_catalog: bool) -> Row:
    """A token as its owner and services see it."""
    known, letter, credential = session.facts, session.letter, session.application_credential
    found: Row = {
        "methods": list(letter.methods),
        "user": {
            "domain": _named(known.user_domain),
            **_named(known.user),
            "password_expires_at": known.user["password_expires_at"],
        },
        "audit_ids": list(letter.audit_ids),
        "expires_at": iso(letter.expires_us),
        "issued_at": iso(letter.issued_us),
    }
    if letter.scope == "project" and known.project and known.domain:
        found |= {"project": {"domain": _named(known.domain), **_named(known.project)}, "is_domain": False}
    elif letter.scope == "domain" and known.domain:
        found |= {"domain": _named(known.domain)}
    elif letter.scope == "system":
        found |= {"system": {"all": True}}
    if letter.scope != "none":
        found["roles"] = [_named(role) for role in session.roles]
        if with_catalog:
            project_id = letter.scope_id if letter.scope == "project" else None
            found["catalog"] = catalog(ctx, letter.user_id, project_id)
    if credential is not None:
        restricted = not credential["unrestricted"]
        found["application_credential"] = {**_named(credential), "restricted": restricted}
        if credential["access_rules"]:
            found["application_credential"]["access_rules"] = credential["access_rules"]
    return {"token": found}


def _named(row: Row) -> Row:
    return {"id": row["id"], "name": row["name"]}


def token_reply(ctx: Ctx, token: str, session: Session, status: int) -> Reply:
    body = token_body(ctx, session, "nocatalog" not in ctx.query)
    return Reply(body, status, [("X-Subject-Token", token)])


def no_token() -> Fault:
    """For a token that a request is about; a token that a request comes with is 401."""
    return Fault("missing", "Failed to validate token")


# routes
def _subject(ctx: Ctx, rule: str, grace_s: int = 0) -> tuple[str, Session]:
    token = ctx.headers.get("x-subject-token", "")
    session = open_token(ctx.tx, token, grace_s) if token else None
    if session is None:
        raise no_token()
    ctx.require(rule, "identity:validate_token", {"user_id": session.letter.user_id})
    return token, session


@IDENTITY.route("GET", "/auth/tokens", "anyone")
def validate(ctx: Ctx) -> Reply:
    may_be_old = ctx.one("allow_expired") in ("1", "true", "True") and ctx.may("service")
    token, session = _subject(ctx, "admin|system_reader|service|self", EXPIRED_STILL_SHOWN_S if may_be_old else 0)
    return token_reply(ctx, token, session, 200)


@IDENTITY.route("DELETE", "/auth/tokens", "anyone", status=204)
def revoke(ctx: Ctx) -> None:
    _, session = _subject(ctx, "admin|self")
    table = relations.REVOKED
    ctx.tx.execute(table.delete().where(table.c.expires_us < now_us() - EXPIRED_STILL_SHOWN_S * 1_000_000))
    relations.add(ctx.tx, table, audit_id=session.letter.audit_ids[0], expires_us=session.letter.expires_us)


@IDENTITY.route("GET", "/auth/catalog", "anyone")
def show_catalog(ctx: Ctx) -> Row:
    if not (ctx.who.project_id or ctx.who.domain_id or ctx.who.system):
        raise Fault("forbidden", "A project-scoped token is required to produce a service catalog.")
    found = catalog(ctx, ctx.who.user_id, ctx.who.project_id)
    return {"catalog": found, "links": {"self": f"{ctx.base_url}{ctx.url_path}"}}


@IDENTITY.route("GET", "/auth/projects", "anyone")
def list_own_projects(ctx: Ctx) -> Row:
    return {"projects": ctx.show_all(PROJECT, projects_of(ctx.tx, ctx.who.user_id)), "links": list_links(ctx)}


@IDENTITY.route("GET", "/auth/domains", "anyone")
def list_own_domains(ctx: Ctx) -> Row:
    return {"domains": ctx.show_all(DOMAIN, domains_of(ctx.tx, ctx.who.user_id)), "links": list_links(ctx)}


@IDENTITY.route("GET", "/auth/system", "anyone")
def list_own_system(ctx: Ctx) -> Row:
    found = [{"all": True}] if has_system_role(ctx.tx, ctx.who.user_id) else []
    return {"system": found, "links": {"self": f"{ctx.base_url}{ctx.url_path}"}}


@IDENTITY.route("GET", "/users/{user_id}/projects", "anyone")
def list_projects_of_user(ctx: Ctx) -> Row:
    user = ctx.tx.get(USER, ctx.path["user_id"])
    ctx.require(f"{rules.READ}|self", "identity:list_user_projects", user)
    return listed(ctx, PROJECT, PROJECT.c.id.in_([row["id"] for row in projects_of(ctx.tx, user["id"])]))
