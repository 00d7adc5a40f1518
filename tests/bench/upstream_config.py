"""The configuration of upstream's services, as an operator would tune them for this machine: tokens and their
validation cached in memcached, catalogue entries on one address, debug off, quotas out of the way, two workers each.

Nothing stands between client and services (no TLS, no proxy), agents of networks are left out, machines are pretended
by nova's own fake driver: all of this makes it leaner than any real deployment.
"""

import shutil
from configparser import RawConfigParser
from dataclasses import dataclass
from pathlib import Path

from tests.bench.mariadb import MariaDb

WORKERS = 2
PASSWORD = "bench"
HASH_ROUNDS = 12  # of bcrypt, as Trilith has them
HOST = "compute1"
REGION = "RegionOne"
Sections = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Ports:
    """Consecutive ones from `first` on."""

    first: int

    def __getattr__(self, name: str) -> int:
        try:
            return self.first + PORT_NAMES.index(name)
        except ValueError:
            raise AttributeError(name) from None


PORT_NAMES = (
    "mariadb", "memcached", "rabbitmq", "epmd", "rabbitmq_peers",
    "keystone", "placement", "glance", "nova", "neutron", "cinder",
)  # fmt: skip
DATABASES = ("keystone", "placement", "glance", "nova_api", "nova", "nova_cell0", "neutron", "cinder")
MODULES = {
    "keystone": "keystone.wsgi.api",
    "placement": "placement.wsgi.api",
    "glance": "glance.wsgi.api",
    "nova-api": "nova.wsgi.osapi_compute",
    "neutron-api": "neutron.wsgi.api",
    "cinder-api": "cinder.wsgi.api",
}


class Config:
    """Writes files below ``root/etc``; what they name lies below ``root/data``."""

    def __init__(self, root: Path, venv: Path, ports: Ports, database: MariaDb) -> None:
        self.root, self.venv, self.ports, self.database = root, venv, ports, database
        self.etc, self.data = root / "etc", root / "data"
        self.keystone_url = f"http://127.0.0.1:{ports.keystone}"

    def write(self) -> None:
        for directory in ("glance/images", "glance/staging", "glance/tasks", "nova", "neutron", "cinder", "rabbitmq"):
            (self.data / directory).mkdir(parents=True, exist_ok=True)
        files: dict[str, Sections] = {
            "keystone/keystone.conf": self._keystone(),
            "placement/placement.conf": self._placement(),
            "glance/glance-api.conf": self._glance(),
            "nova/nova.conf": self._nova(),
            "neutron/neutron.conf": self._neutron(),
            "neutron/ml2_conf.ini": self._ml2(),
            "cinder/cinder.conf": self._cinder(),
        }
        for name, sections in files.items():
            self._write(name, sections)
        self._write("rabbitmq/rabbitmq.conf", {}, self._rabbitmq())
        self._write("rabbitmq/enabled_plugins", {}, "[].\n")
        shutil.copy(self.venv / "etc/nova/api-paste.ini", self.etc / "nova")  # nova-api looks beside its nova.conf only
        for name, module in MODULES.items():
            self._write(f"uwsgi/{name}.ini", self._uwsgi(name, module))

    def _write(self, name: str, sections: Sections, text: str = "") -> None:
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parser = RawConfigParser(default_section="")
        parser.optionxform = str  # type: ignore[assignment, method-assign]  # as it is written
        parser.read_dict(sections)
        with path.open("w") as file:
            file.write(text)
            parser.write(file)

    # --- what several have in common

    def _database(self, name: str) -> dict[str, object]:
        url = f"{self.database.url(name)}?charset=utf8"
        return {"connection": url, "max_pool_size": 10, "max_overflow": 20, "connection_recycle_time": 600}

    def _user(self, name: str) -> dict[str, object]:
        return {
            "auth_url": self.keystone_url,
            "auth_type": "password",
            "project_domain_name": "Default",
            "user_domain_name": "Default",
            "region_name": REGION,
            "project_name": "service",
            "username": name,
            "password": PASSWORD,
        }

    def _service(self, name: str) -> Sections:
        """What every service but keystone has."""
        token = self._user(name) | {
            "www_authenticate_uri": self.keystone_url,
            "memcached_servers": f"127.0.0.1:{self.ports.memcached}",
            "service_token_roles_required": "true",
            "service_token_roles": "service",
        }
        del token["region_name"]
        return {"keystone_authtoken": token, "oslo_concurrency": {"lock_path": self.data / name / "lock"}}

    @property
    def transport_url(self) -> str:
        return f"rabbit://bench:{PASSWORD}@127.0.0.1:{self.ports.rabbitmq}/"

    # --- one each

    def _keystone(self) -> Sections:
        keys = self.data / "keystone"
        return {
            "token": {"provider": "fernet"},
            "fernet_tokens": {"key_repository": keys / "fernet-keys"},
            "credential": {"key_repository": keys / "credential-keys"},
            "cache": {
                "enabled": "true",
                "backend": "dogpile.cache.pymemcache",
                "memcache_servers": f"127.0.0.1:{self.ports.memcached}",
            },
            "identity": {"password_hash_algorithm": "bcrypt", "password_hash_rounds": HASH_ROUNDS},
            "database": self._database("keystone"),
        }

    def _placement(self) -> Sections:
        own: Sections = {"api": {"auth_strategy": "keystone"}, "placement_database": self._database("placement")}
        return own | self._service("placement")

    def _glance(self) -> Sections:
        own: Sections = {
            "DEFAULT": {
                "enabled_backends": "fs:file",
                "use_keystone_limits": "false",
                "enabled_import_methods": "[glance-direct]",
                "node_staging_uri": f"file://{self.data}/glance/staging",
            },
            "glance_store": {"default_backend": "fs"},
            "fs": {"filesystem_store_datadir": self.data / "glance/images"},
            "os_glance_staging_store": {"filesystem_store_datadir": self.data / "glance/staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": self.data / "glance/tasks"},
            "paste_deploy": {"flavor": "keystone", "config_file": self.venv / "etc/glance/glance-api-paste.ini"},
            "database": self._database("glance"),
        }
        return own | self._service("glance")

    def _nova(self) -> Sections:
        own: Sections = {
            "DEFAULT": {
                "my_ip": "127.0.0.1",
                "host": HOST,
                "transport_url": self.transport_url,
                "state_path": self.data / "nova",
                "compute_driver": "fake.FakeDriver",
                "service_down_time": 60,
            },
            "api": {"auth_strategy": "keystone"},
            "wsgi": {"api_paste_config": self.etc / "nova/api-paste.ini"},
            "glance": {"api_servers": f"http://127.0.0.1:{self.ports.glance}"},
            "vnc": {"enabled": "false"},
            "quota": {"instances": -1, "cores": -1, "ram": -1},
            "scheduler": {"workers": WORKERS},
            "conductor": {"workers": WORKERS},
            "cinder": {"catalog_info": "block-storage::internalURL", "os_region_name": REGION},
            "placement": self._user("placement"),
            "neutron": self._user("neutron"),
            "service_user": self._user("nova") | {"send_service_user_token": "true"},
            "api_database": self._database("nova_api"),
            "database": self._database("nova"),
        }
        return own | self._service("nova")

    def _neutron(self) -> Sections:
        own: Sections = {
            "DEFAULT": {
                "transport_url": self.transport_url,
                "state_path": self.data / "neutron",
                "core_plugin": "ml2",
                "service_plugins": "",
                "auth_strategy": "keystone",
                "api_paste_config": self.venv / "etc/neutron/api-paste.ini",
                "rpc_workers": 1,
                "rpc_state_report_workers": 0,
                "dhcp_agent_notification": "false",
            },
            "quotas": {"quota_port": -1, "quota_network": -1, "quota_subnet": -1},
            "nova": self._user("nova"),
            "database": self._database("neutron"),
        }
        return own | self._service("neutron")

    def _ml2(self) -> Sections:
        return {
            "ml2": {
                "type_drivers": "flat,vlan,vxlan",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "openvswitch",
                "extension_drivers": "port_security",
            },
            "ml2_type_vxlan": {"vni_ranges": "1:5000"},
            "securitygroup": {"enable_security_group": "true"},
        }

    def _cinder(self) -> Sections:
        own: Sections = {
            "DEFAULT": {
                "transport_url": self.transport_url,
                "auth_strategy": "keystone",
                "my_ip": "127.0.0.1",
                "state_path": self.data / "cinder",
                "api_paste_config": self.venv / "etc/cinder/api-paste.ini",
                "resource_query_filters_file": self.venv / "etc/cinder/resource_filters.json",
                "enabled_backends": "fake",
                "default_volume_type": "__DEFAULT__",
            },
            "fake": {
                "volume_driver": "cinder.tests.fake_driver.FakeLoggingVolumeDriver",
                "volume_backend_name": "fake",
            },
            "coordination": {"backend_url": f"file://{self.data}/cinder/coordination"},
            "database": self._database("cinder"),
        }
        return own | self._service("cinder")

    def _rabbitmq(self) -> str:
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.ports.rabbitmq}", "default_user = bench"]
        return "\n".join([*lines, f"default_pass = {PASSWORD}", "log.console = false", ""])

    def _uwsgi(self, name: str, module: str) -> Sections:
        service = name.removesuffix("-api")
        extra: dict[str, object] = {}
        if service in ("neutron", "cinder"):
            extra["pyargv"] = " ".join(self.arguments(service))
        own: dict[str, object] = {
            "http-socket": f"127.0.0.1:{getattr(self.ports, service)}",
            "module": f"{module}:application",
            "master": "true",
            "processes": WORKERS,
            "threads": 1,
            "enable-threads": "true",
            "lazy-apps": "true",
            "thunder-lock": "true",
            "need-app": "true",
            "die-on-term": "true",
            "buffer-size": 65535,
            "listen": 128,
            "add-header": "Connection: close",
        }
        return {"uwsgi": own | extra}

    def arguments(self, service: str) -> list[str]:
        """Which files a program of the service reads."""
        file = "glance-api" if service == "glance" else service
        found = ["--config-file", str(self.etc / service / f"{file}.conf")]
        return [*found, "--config-file", str(self.etc / "neutron/ml2_conf.ini")] if service == "neutron" else found
