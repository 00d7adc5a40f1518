"""TLS for a process of this cloud: who it serves as, and what it verifies others against.

Certificates lie in ``secrets/tls``: ``ca.crt``, this host's ``host.crt`` and ``host.key``. Everybody is verified.
"""

import ssl

from trilith.cluster.state import Settings, State
from trilith.kernel.tls import client_context, server_context


def server(state: State, settings: Settings) -> ssl.SSLContext | None:
    """For a server on this host; None where the cloud has no TLS (one machine on loopback)."""
    return server_context(state.tls / "host.crt", state.tls / "host.key") if settings.encrypted else None


def client(state: State, settings: Settings) -> ssl.SSLContext | None:
    """For asking a server of this cloud; None where it has no TLS."""
    return client_context(state.ca_file(settings)) if settings.encrypted else None
