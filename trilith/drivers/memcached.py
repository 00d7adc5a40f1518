"""memcached, as its users see it: what is not there is computed anew. A server that is gone costs fractions of a
second, never an error, and its keys live on the others."""

from collections.abc import Sequence

from pymemcache.client.hash import HashClient

PORT = 11211
CONNECT_S, ANSWER_S = 0.2, 0.3
ABSENT_S = 10  # a server that did not answer is asked again after that


class Memcached:
    """A cache over the servers at `addresses`. Safe for many threads."""

    def __init__(self, addresses: Sequence[str], port: int = PORT) -> None:
        self._client = HashClient(
            [(address, port) for address in addresses],
            connect_timeout=CONNECT_S,
            timeout=ANSWER_S,
            retry_attempts=1,
            retry_timeout=0.5,
            dead_timeout=ABSENT_S,
            ignore_exc=True,
            use_pooling=True,
        )

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._client.get(key)
        return found

    def put(self, key: str, value: bytes, for_s: int) -> None:
        self._client.set(key, value, expire=for_s)
