"""memcached: a cache that every controller shares. Losing it costs a little time and nothing else."""

from trilith.cluster.engines.engine import ServiceUnit, UnitEngine
from trilith.cluster.engines.files import ConfigFile
from trilith.drivers.memcached import PORT

MEMORY_MIB = 64
CONF = "/etc/memcached.conf"


class Memcached(UnitEngine):
    kind = "memcached"

    def present(self) -> bool:
        return self.view.has_role("control")

    def files(self) -> list[ConfigFile]:
        lines = [
            "-d",
            "-u memcache",
            f"-m {MEMORY_MIB}",
            f"-p {PORT}",
            "-U 0",
            f"-l {self.view.host.address}",
            "-c 1024",
        ]
        return [ConfigFile(CONF, "\n".join(lines) + "\n")]

    def units(self) -> list[ServiceUnit]:
        return [ServiceUnit("memcached.service", reads=(CONF,))]
