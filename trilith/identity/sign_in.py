"""Signing in: ``POST /v3/auth/tokens``. What is wrong is never said: a failure is always the same 401 and takes as
long. Passwords are read, never written here: the transaction only reads."""

from dataclasses import dataclass
from typing import Any

from trilith.identity.application_credentials import APPLICATION_CREDENTIAL, is_expired
from trilith.identity.domains import DOMAIN
from trilith.identity.facts import Scope
from trilith.identity.passwords import is_password
from trilith.identity.projects import PROJECT
from trilith.identity.tokens import LIFETIME_S, issue, microseconds, no_token, open_token, token_reply
from trilith.identity.users import USER, unauthorized
from trilith.identity.versions import IDENTITY
from trilith.kernel.declare import Noun
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Either, Flag, ListOf, Member, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.store import Tx

Row = dict[str, Any]


def _named(clean: Row, path: str) -> None:
    if "id" not in clean and "name" not in clean:
        raise Fault("invalid", f"Invalid input for field {path.replace('.', '/')}: id or name must be present.")


def _object(**members: Any) -> Object:
    return Object({name: Member(kind) for name, kind in members.items()}, open_ended=True)


_WORD = Text(4096)
_DOMAIN = Object({"id": Member(_WORD), "name": Member(_WORD)}, open_ended=True, check_whole=_named)
_USER = Object(
    {"id": Member(_WORD), "name": Member(_WORD), "password": Member(_WORD), "domain": Member(_DOMAIN)},
    open_ended=True,
    check_whole=_named,
)
_PROJECT = Object(
    {"id": Member(_WORD), "name": Member(_WORD), "domain": Member(_DOMAIN)}, open_ended=True, check_whole=_named
)
_SCOPE = Object(
    {
        "project": Member(_PROJECT),
        "domain": Member(_DOMAIN),
        "system": Member(Object({"all": Member(Flag())}, open_ended=True)),
    },
    open_ended=True,
)
_IDENTITY = Object(
    {
        "methods": Member(ListOf(Text(64)), required=True),
        "password": Member(_object(user=_USER)),
        "token": Member(Object({"id": Member(Text(8192), required=True)}, open_ended=True)),
        "application_credential": Member(_object(id=_WORD, name=_WORD, secret=_WORD, user=_USER)),
    },
    open_ended=True,
)
_AUTH = Object(
    {"identity": Member(_IDENTITY, required=True), "scope": Member(Either((_SCOPE, Text(64))), null=True)},
    open_ended=True,
)
BODY = Object({"auth": Member(_AUTH, required=True)}, open_ended=True)


@dataclass
class Proof:
    """What one method proved."""

    user_id: str
    methods: tuple[str, ...]
    expires_us: int | None = None
    audit_id: str | None = None
    scope: Scope | None = None  # the only one that it allows
    application_credential_id: str = ""


@IDENTITY.route("POST", "/auth/tokens", "public", body=BODY, status=201, write=False)
def sign_in(ctx: Ctx) -> Reply:
    identity, asked = ctx.body["auth"]["identity"], ctx.body["auth"].get("scope")
    proof = _prove_all(ctx.tx, identity)
    _check_rules_of_user(ctx.tx, proof)
    scope = _scope(ctx.tx, asked)
    if proof.scope is not None:
        if scope not in (None, proof.scope):
            raise unauthorized()
        scope = proof.scope
    made = None
    lifetime_s = int(ctx.settings.get("token_lifetime_s", LIFETIME_S))
    more: Row = {
        "lifetime_s": lifetime_s,
        "expires_us": proof.expires_us,
        "parent_audit_id": proof.audit_id,
        "application_credential_id": proof.application_credential_id,
    }
    if scope is None:  # the default project where that is possible, else no scope
        user = ctx.tx.get(USER, proof.user_id)
        if user["default_project_id"]:
            made = issue(ctx.tx, proof.user_id, Scope("project", user["default_project_id"]), proof.methods, **more)
        scope = Scope()
    made = made or issue(ctx.tx, proof.user_id, scope, proof.methods, **more)
    if made is None:
        raise unauthorized()
    return token_reply(ctx, *made, status=201)


def _prove_all(tx: Tx, identity: Row) -> Proof:
    """Every method that is named must succeed, for the same user."""
    proofs = []
    for name in dict.fromkeys(identity["methods"]):
        method = METHODS.get(name)
        if method is None:
            raise Fault("unauthenticated", "Attempted to authenticate with an unsupported method.")
        if name not in identity:
            raise Fault(
                "invalid", f"Expecting to find {name} in identity. The server could not comply with the request."
            )
        proofs.append(method(tx, identity[name]))
    if not proofs or len({proof.user_id for proof in proofs}) != 1:
        raise unauthorized()
    whole = proofs[0]
    for proof in proofs[1:]:
        whole.methods = tuple(dict.fromkeys([*whole.methods, *proof.methods]))
        whole.expires_us = whole.expires_us or proof.expires_us
        whole.audit_id = whole.audit_id or proof.audit_id
        whole.scope = whole.scope or proof.scope
        whole.application_credential_id = whole.application_credential_id or proof.application_credential_id
    return whole


def _check_rules_of_user(tx: Tx, proof: Proof) -> None:
    """A user's own rules: one of these sets of methods together."""
    user = tx.one(USER, id=proof.user_id)
    if user is None:
        raise unauthorized()
    wanted = user["options"].get("multi_factor_auth_rules") or []
    if not user["options"].get("multi_factor_auth_enabled", True) or not wanted:
        return
    if not any(set(rule) <= set(proof.methods) for rule in wanted):
        raise unauthorized()


def _find(tx: Tx, noun: Noun, given: Row) -> Row | None:
    """A user or a project, by its id or by its name in a domain."""
    if "id" in given:
        return tx.one(noun, id=given["id"])
    if "domain" not in given:
        words = f"Expecting to find domain in {noun.name}. The server could not comply with the request."
        raise Fault("invalid", words)
    domain = _find_domain(tx, given["domain"])
    return tx.one(noun, name=given["name"], domain_id=domain["id"]) if domain else None


def _find_domain(tx: Tx, given: Row) -> Row | None:
    return tx.one(DOMAIN, id=given["id"]) if "id" in given else tx.one(DOMAIN, name=given["name"])


def _by_password(tx: Tx, given: Row) -> Proof:
    asked = given.get("user")
    if asked is None or "password" not in asked:
        raise Fault("invalid", "Expecting to find user in password. The server could not comply with the request.")
    user = _find(tx, USER, asked)
    if (
        not is_password(asked["password"], user["password_hash"] if user else None)
        or user is None
        or not user["enabled"]
    ):
        raise unauthorized()
    return Proof(user["id"], ("password",))


def _by_token(tx: Tx, given: Row) -> Proof:
    session = open_token(tx, given["id"])
    if session is None:
        raise no_token()
    letter = session.letter
    return Proof(
        letter.user_id,
        tuple(dict.fromkeys(["token", *letter.methods])),
        letter.expires_us,
        letter.audit_ids[-1],
        session.scope if letter.application_credential_id else None,
        letter.application_credential_id,
    )


def _by_application_credential(tx: Tx, given: Row) -> Proof:
    if "id" in given:
        row = tx.one(APPLICATION_CREDENTIAL, id=given["id"])
    elif "name" in given and "user" in given:
        user = _find(tx, USER, given["user"])
        row = tx.one(APPLICATION_CREDENTIAL, name=given["name"], user_id=user["id"]) if user else None
    else:
        raise Fault("invalid", "Expecting to find id, or name and user, in application_credential.")
    known = is_password(given.get("secret", ""), row["secret_hash"] if row else None)
    if row is None or not known or is_expired(row):
        raise unauthorized()
    ends_us = microseconds(row["expires_at"]) if row["expires_at"] else None
    return Proof(
        row["user_id"],
        ("application_credential",),
        scope=Scope("project", row["project_id"]),
        application_credential_id=row["id"],
        expires_us=ends_us,
    )


METHODS = {"password": _by_password, "token": _by_token, "application_credential": _by_application_credential}


def _scope(tx: Tx, asked: Any) -> Scope | None:
    """The scope that a request names; None where it names none."""
    if asked is None or asked == {}:
        return None
    if asked == "unscoped" or "unscoped" in asked:
        return Scope()
    if not isinstance(asked, dict) or sum(name in asked for name in ("project", "domain", "system")) != 1:
        raise Fault("invalid", "Expecting to find one of project, domain or system in scope.")
    if "project" in asked:
        found = _find(tx, PROJECT, asked["project"])
        kind = "project"
    elif "domain" in asked:
        found, kind = _find_domain(tx, asked["domain"]), "domain"
    else:
        return Scope("system")
    if found is None:
        raise unauthorized()
    return Scope(kind, found["id"])
