"""The engines of a host, in the order in which people read about them. Each decides by itself whether it is present."""

from trilith.cluster.engines.ceph import CephCluster, CephMgr, CephMon, CephOsd
from trilith.cluster.engines.engine import Engine, HostView
from trilith.cluster.engines.firewall import Firewall
from trilith.cluster.engines.galera import Galera
from trilith.cluster.engines.haproxy import Haproxy
from trilith.cluster.engines.keepalived import Keepalived
from trilith.cluster.engines.memcached import Memcached
from trilith.cluster.engines.ovn_central import OvnCentral
from trilith.cluster.engines.ovn_host import OvnHost
from trilith.cluster.engines.own_units import OwnUnits
from trilith.cluster.engines.rabbitmq import RabbitMq
from trilith.cluster.engines.rsyslog import Rsyslog


def engines_of(view: HostView) -> list[Engine]:
    """Every engine, for the keeper of one host."""
    return [
        Firewall(view),
        Galera(view),
        RabbitMq(view),
        Memcached(view),
        OvnCentral(view),
        OvnHost(view),
        CephMon(view),
        CephMgr(view),
        CephOsd(view),
        CephCluster(view),
        Haproxy(view),
        Keepalived(view),
        OwnUnits(view),
        Rsyslog(view),
    ]
