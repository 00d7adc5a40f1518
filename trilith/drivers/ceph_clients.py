"""Who has images in Ceph open, and whose word counts no more: for many images by one process.

Ceph's own programs take a third of a second of a processor each, and one of them asks for one image. This runs in the
Python that Debian's Ceph packages have their bindings for, outside of the program's own:

    python3 ceph_clients.py --mon-host=HOSTS --id=USER --keyfile=FILE < request > answer

    request   {"images": [[pool, name], ...], "block": [address, ...], "for_s": seconds}
    answer    {"watchers": [[address, ...], ...]}, in the order of `images`; [] of one that is not there
"""

import argparse
import json
import sys
from typing import Any

ANSWER_S = 10


def main() -> int:
    import rados  # type: ignore[import-not-found]
    import rbd  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser()
    for name in ("--mon-host", "--id", "--keyfile"):
        parser.add_argument(name, required=True)
    words, _ = parser.parse_known_args()
    request: dict[str, Any] = json.load(sys.stdin)
    settings = {"mon_host": words.mon_host, "keyfile": words.keyfile, "log_to_stderr": "false"}
    bounds = {name: str(ANSWER_S) for name in ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")}
    try:
        with rados.Rados(rados_id=words.id, conf=settings | bounds) as cluster:
            watchers = [_watchers(rbd, cluster, pool, name) for pool, name in request["images"]]
            for address in request["block"]:
                _block(cluster, address, request["for_s"])
    except (rados.Error, rbd.Error) as error:
        print(error, file=sys.stderr)
        return abs(getattr(error, "errno", 0) or 0) or 1
    json.dump({"watchers": watchers}, sys.stdout)
    return 0


def _watchers(rbd: Any, cluster: Any, pool: str, name: str) -> list[str]:
    with cluster.open_ioctx(pool) as place:
        try:
            with rbd.Image(place, name, read_only=True) as image:
                return [watcher["addr"] for watcher in image.watchers_list()]
        except rbd.ImageNotFound:
            return []


def _block(cluster: Any, address: str, for_s: float) -> None:
    ask = {"prefix": "osd blocklist", "blocklistop": "add", "addr": address, "expire": float(for_s)}
    code, _, said = cluster.mon_command(json.dumps(ask), b"")
    if code:
        raise SystemExit(f"{address}: {said}")


if __name__ == "__main__":
    sys.exit(main())
