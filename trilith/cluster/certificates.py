"""The cloud's certificates: an authority of its own (or one that the operator brings), one certificate for each host
and one for the address that clients use.

    DIRECTORY/ca.crt ca.key           the authority; the key stays where deployments are made
    DIRECTORY/NAME.crt NAME.key       of a host (name and addresses; it serves and it connects), or of the VIP

To bring an authority, put its ``ca.crt`` and ``ca.key`` there before the first deployment.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trilith.cluster.state import Problem, write_file

CA_DAYS = 3650
DAYS = 397  # the longest that clients of the field take
RENEW_DAYS = 60
SKEW = datetime.timedelta(hours=1)  # hosts whose clock is behind


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes

    @property
    def together(self) -> bytes:
        """For programs that want both in one file."""
        return self.certificate + self.key


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_ca(directory: Path, cloud: str = "trilith") -> Authority:
    """The authority of `directory`: the one that lies there, or a new one. Raises `Problem` where what lies there
    cannot sign."""
    if not (directory / "ca.crt").exists():
        _new_ca(directory, cloud)
    return read_ca(directory)


def read_ca(directory: Path) -> Authority:
    """Raises `Problem` where it is missing, or cannot sign."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise Problem(f"There is no usable authority in {directory} (ca.crt, ca.key): {error}") from error
    if not limits.ca or certificate.public_key() != key.public_key():
        raise Problem(f"{directory}/ca.crt is no authority's certificate, or {directory}/ca.key is not its key.")
    return Authority(certificate, key)  # type: ignore[arg-type]  # a key whose certificate says that it signs


def _new_ca(directory: Path, cloud: str) -> None:
    """The key first: a certificate that stands there has its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cloud} authority")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(directory / "ca.key", _private(key))
    write_file(directory / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))


def host_certificate(ca: Authority, name: str, addresses: Iterable[str]) -> Pair:
    """For all that a host serves, and for what it says who it is with. `addresses`: IP addresses or further names."""
    return _signed(ca, name, [name, *addresses])


def vip_certificate(ca: Authority, vip: str, names: Iterable[str] = ()) -> Pair:
    """For the address that clients use, under these names too."""
    return _signed(ca, vip, [vip, *names])


def is_current(pair: Pair, ca: Authority, names: Iterable[str], days: float = RENEW_DAYS) -> bool:
    """Whether the certificate is this authority's and this key's, for just these names and addresses, and lasts for
    `days` more."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, None)
        certificate.verify_directly_issued_by(ca.certificate)
        has = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=days)
    return lasts and certificate.public_key() == key.public_key() and set(has) == set(_alternatives(names))


def keep_certificate(ca: Authority, directory: Path, stem: str, names: list[str]) -> tuple[Pair, bool]:
    """``STEM.crt`` and ``STEM.key`` in `directory`, made or renewed where they are not current; whether they were."""
    paths = directory / f"{stem}.crt", directory / f"{stem}.key"
    if all(path.exists() for path in paths):
        pair = Pair(*(path.read_bytes() for path in paths))
        if is_current(pair, ca, names):
            return pair, False
    pair = _signed(ca, names[0], names)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in zip(reversed(paths), (pair.key, pair.certificate), strict=True):
        write_file(path, content)
    return pair, True


def _signed(ca: Authority, common_name: str, names: list[str]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(subject, ca.certificate.subject, key.public_key(), DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(ca.key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    moment = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - SKEW)
        .not_valid_after(moment + datetime.timedelta(days=days))
    )


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
