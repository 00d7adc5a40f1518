"""The cloud's authority and its certificates, and that TLS with them verifies who it talks to."""

import http.client
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from trilith.cluster.certificates import host_certificate, is_current, keep_certificate, make_ca, vip_certificate
from trilith.cluster.state import Problem
from trilith.kernel.tls import client_context, connect, server_context


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port of a server on 127.0.0.1 that is the host c1."""
    keep_certificate(make_ca(tmp_path / "ca"), tmp_path, "host", ["c1", "127.0.0.1"])
    server = HTTPServer(("127.0.0.1", 0), Hello)
    context = server_context(tmp_path / "host.crt", tmp_path / "host.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def get(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_who_has_the_authoritys_certificate_is_believed(served: int, tmp_path: Path) -> None:
    assert get(connect(f"https://127.0.0.1:{served}", 5, tmp_path / "ca" / "ca.crt")) == 204
    make_ca(tmp_path / "other")
    for ca_file in (tmp_path / "other" / "ca.crt", None):
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(f"https://127.0.0.1:{served}", 5, ca_file)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(f"https://localhost:{served}", 5, tmp_path / "ca" / "ca.crt")  # not in it
    assert client_context(tmp_path / "ca" / "ca.crt").minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_certificate_is_made_anew_when_it_must_be(tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    assert make_ca(tmp_path).certificate == ca.certificate
    first, made = keep_certificate(ca, tmp_path, "c1", ["c1", "10.0.0.1"])
    assert made
    assert keep_certificate(ca, tmp_path, "c1", ["c1", "10.0.0.1"]) == (first, False)
    assert not is_current(first, ca, ["c1", "10.0.0.1"], days=400)
    assert keep_certificate(ca, tmp_path, "c1", ["c1", "10.0.0.2"])[1]
    (tmp_path / "c1.crt").write_bytes(b"broken")
    assert keep_certificate(ca, tmp_path, "c1", ["c1", "10.0.0.2"])[1]
    assert not is_current(first, make_ca(tmp_path / "other"), ["c1", "10.0.0.1"])
    for path in tmp_path.iterdir():
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path
    pair = vip_certificate(ca, "10.0.0.9", ["cloud.example"])
    names = x509.load_pem_x509_certificate(pair.certificate).extensions
    both = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in both] == ["10.0.0.9", "cloud.example"]


def test_an_authority_can_be_brought(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of the operator")])
    moment = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(moment).not_valid_after(moment + timedelta(days=900))
    for is_ca in (False, True):
        limits = x509.BasicConstraints(ca=is_ca, path_length=None)
        certificate = builder.add_extension(limits, critical=True).sign(key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (tmp_path / "ca.crt").write_bytes(certificate.public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / "ca.key").write_bytes(private)
        if not is_ca:
            with pytest.raises(Problem, match="no authority's"):
                make_ca(tmp_path)
    ca = make_ca(tmp_path)
    assert is_current(host_certificate(ca, "c1", ["10.0.0.1"]), ca, ["c1", "10.0.0.1"])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(Problem, match="no usable authority"):
        make_ca(tmp_path)
