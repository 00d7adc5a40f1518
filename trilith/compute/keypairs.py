"""Keypairs: a user's public keys; below microversion 2.92 the cloud also makes them."""

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from trilith.compute.versions import COMPUTE
from trilith.kernel import quota
from trilith.kernel.declare import Noun, choice, computed, text, time, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Text
from trilith.kernel.paging import fetch
from trilith.kernel.request import Ctx, Reply, forbidden
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
OTHERS_SINCE, PAGED_SINCE, MADE_UNTIL = v("2.10"), v("2.35"), v("2.91")
NAME, NEWER_NAME = r"[_\- a-zA-Z0-9]+", r"[_\-@. a-zA-Z0-9]+"
BLOB_BYTES = 16  # the shortest that can be a key


def _scope(ctx: Ctx) -> sa.ColumnElement[bool]:
    """One user's own; administrators may name another with ``?user_id=``."""
    asked = ctx.one("user_id") if ctx.at >= OTHERS_SINCE else None
    if asked is not None and asked != ctx.who.user_id and not ctx.who.is_admin:
        raise forbidden("os_compute_api:os-keypairs")
    return KEYPAIR.c.user_id == (asked or ctx.who.user_id)  # type: ignore[no-any-return]


KEYPAIR = Noun(
    COMPUTE,
    "keypair",
    "/os-keypairs",
    dict(
        name=text(255, create="required"),
        key_type=choice("ssh", "x509", wire="type", create="optional", default="ssh", since=v("2.2")),
        public_key=text(16384, create="optional"),
        fingerprint=text(255),
        user_id=text(64, create="optional", accept_since=OTHERS_SINCE, index=True),
        number=whole(wire="id"),
        deleted=computed(lambda row, ctx: False),
        created_at=time(),
        updated_at=time(),
        deleted_at=computed(lambda row, ctx: None),
    ),
    dict(list="anyone", show="anyone", create="anyone", delete="anyone"),
    key="name",
    owner="user_id",
    scope=_scope,
    unique=[("user_id", "name")],
    status=dict(create=[(v("2.1"), 200), (v("2.2"), 201)], delete=[(v("2.1"), 202), (v("2.2"), 204)]),
    filters={"user_id": lambda ctx, values: None},
    order=[("name", "asc")],
    type_name="Keypair",
)


def _owned(tx: Tx, user_id: str) -> int:
    return tx.count(KEYPAIR, user_id=user_id)


COMPUTE.quota("key_pairs", 100, lambda tx, project_id: 0)  # counted by user, in create()
BRIEF = ("fingerprint", "name", "public_key", "type")


def _part(view: Row, names: tuple[str, ...]) -> Row:
    return {name: view[name] for name in names if name in view}


@KEYPAIR.on("list")
def list_keypairs(ctx: Ctx) -> Reply:
    listing = ctx.service.wire.listing(ctx, KEYPAIR)
    paged = ctx.at >= PAGED_SINCE
    if not paged:
        listing.limit, listing.marker = None, None
    page = fetch(ctx, KEYPAIR, listing)
    views = [{"keypair": _part(view, BRIEF)} for view in ctx.show_all(KEYPAIR, page.rows)]
    body = ctx.service.wire.wrap_list(ctx, KEYPAIR, views, page, listing)
    return Reply(body, 200)


@KEYPAIR.on("create")
def create(ctx: Ctx, new: Row) -> Reply:
    given, may_be_made = new["public_key"], ctx.at <= MADE_UNTIL
    Text(255, 1, NAME if may_be_made else NEWER_NAME).check(new["name"], "name", ctx.at)
    if given is None and not may_be_made:
        raise Bad("public_key", None, "'public_key' is a required property", "required")
    limit = quota.limits(ctx.tx, COMPUTE, ctx.who.project_id or "")["key_pairs"]
    if 0 <= limit <= _owned(ctx.tx, new["user_id"]):
        raise Fault("over_quota", "Quota exceeded, too many key pairs.", "OverQuota", resource="key_pairs")
    private_key = None
    if given is None:
        private_key, given = _made_ssh() if new["key_type"] == "ssh" else _made_x509(new["user_id"])
    fingerprint = _ssh_fingerprint(given) if new["key_type"] == "ssh" else _x509_fingerprint(given)
    last = ctx.tx.scalar(sa.select(sa.func.max(KEYPAIR.c.number))) or 0
    row = ctx.tx.insert(KEYPAIR, new | {"public_key": given, "fingerprint": fingerprint, "number": last + 1})
    view = _part(ctx.show(KEYPAIR, row), (*BRIEF, "user_id"))
    if private_key is not None:
        view["private_key"] = private_key
    return Reply({"keypair": view}, KEYPAIR.status["create"][-1][1] if "type" in view else 200)  # type: ignore[index]


def find_keypair(tx: Tx, user_id: str, name: str) -> Row:
    """A user's key by name; 400 where there is none."""
    row = tx.one(KEYPAIR, user_id=user_id, name=name)
    if row is None:
        raise Fault("invalid", "Invalid key_name provided.")
    return row


def _colons(digest: str) -> str:
    return ":".join(digest[n : n + 2] for n in range(0, len(digest), 2))


def _ssh_fingerprint(public_key: str) -> str:
    parts = public_key.split()
    try:
        blob = base64.b64decode(parts[1], validate=True)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
    except (IndexError, binascii.Error, UnicodeDecodeError):
        raise Fault("invalid", "Keypair data is invalid: failed to generate fingerprint") from None
    if kind != parts[0] or len(blob) < BLOB_BYTES:
        raise Fault("invalid", "Keypair data is invalid: failed to generate fingerprint")
    return _colons(hashlib.md5(blob, usedforsecurity=False).hexdigest())


def _x509_fingerprint(public_key: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(public_key.encode())
    except ValueError:
        raise Fault("invalid", "Keypair data is invalid: failed to generate X509 fingerprint") from None
    return _colons(certificate.fingerprint(hashes.SHA1()).hex())


def _pem(key: rsa.RSAPrivateKey, form: serialization.PrivateFormat) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _made_ssh() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return _pem(key, serialization.PrivateFormat.TraditionalOpenSSL), f"{public.decode()} Generated-by-Trilith"


def _made_x509(user_id: str) -> tuple[str, str]:
    """A key and a certificate for logging in to Windows over WinRM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64])])
    upn = f"{user_id}@localhost".encode()
    other = x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c" + bytes([len(upn)]) + upn)
    moment = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([other]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(key, serialization.PrivateFormat.PKCS8), certificate.public_bytes(serialization.Encoding.PEM).decode()
