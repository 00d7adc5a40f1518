"""TLS between the processes of a cloud, and to its clients: one place that says how.

Certificates lie in ``secrets/tls``: ``ca.crt``, this host's ``host.crt`` and ``host.key``. Everybody is verified.
"""

import ssl

from trilith.cluster.state import Settings, State


def server(state: State, settings: Settings) -> ssl.SSLContext | None:
    """For a server on this host; None where the cloud has no TLS (one machine on loopback)."""
    if not settings.clustered:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(state.secrets / "tls" / "host.crt", state.secrets / "tls" / "host.key")
    return context


def client(state: State, settings: Settings) -> ssl.SSLContext | None:
    """For asking a server of this cloud."""
    if not settings.clustered:
        return None
    context = ssl.create_default_context(cafile=str(state.secrets / "tls" / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
