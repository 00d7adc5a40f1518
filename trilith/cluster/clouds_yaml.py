"""The entries of a cloud in the user's ``clouds.yaml``: `trilith` (admin), `trilith-demo` (member). All else stays."""

import os
from pathlib import Path
from typing import Any

from trilith.cluster.state import DEFAULT_PORT, Problem, Settings, State, default_root, write_file


def path() -> Path:
    """Where the OpenStack clients look."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "openstack" / "clouds.yaml"


def names(state: State, settings: Settings) -> tuple[str, str]:
    """The names of (admin, demo): with the port in them for every cloud but the usual one."""
    usual = settings.port == DEFAULT_PORT and state.root == default_root()
    stem = "trilith" if usual else f"trilith-{settings.port}"
    return stem, f"{stem}-demo"


def merge(state: State, settings: Settings) -> None:
    """Write this cloud's entries; those of other clouds stay."""
    document = _read()
    clouds = document.setdefault("clouds", {})
    remove_from(clouds, settings)
    admin, demo = names(state, settings)
    clouds[admin] = entry(settings, "admin", state.secret("admin"), state.ca_file(settings))
    clouds[demo] = entry(settings, "demo", state.secret("demo"), state.ca_file(settings))
    _write(document)


def put(entries: dict[str, dict[str, Any]]) -> None:
    """Write these clouds, by name; all others stay."""
    document = _read()
    document.setdefault("clouds", {}).update(entries)
    _write(document)


def take_out(names: set[str], auth_url: str) -> None:
    """Take those of these names out that are of the cloud at this address."""
    if path().exists():
        document = _read()
        clouds = document.get("clouds", {})
        ours = [name for name in names & clouds.keys() if _auth_url(clouds[name]) == auth_url]
        for name in ours:
            del clouds[name]
        if ours:
            _write(document)


def remove(settings: Settings) -> None:
    """Take this cloud's entries out."""
    if path().exists():
        document = _read()
        if remove_from(document.get("clouds", {}), settings):
            _write(document)


def remove_from(clouds: dict[str, Any], settings: Settings) -> bool:
    ours = [name for name, cloud in clouds.items() if name.startswith("trilith") and _auth_url(cloud) == _url(settings)]
    for name in ours:
        del clouds[name]
    return bool(ours)


def _url(settings: Settings) -> str:
    return f"{settings.api_url}/identity"


def _auth_url(cloud: Any) -> str:
    auth = cloud.get("auth") if isinstance(cloud, dict) else None
    return str(auth.get("auth_url")) if isinstance(auth, dict) else ""


def entry(settings: Settings, user: str, password: str, ca_file: Path | None) -> dict[str, Any]:
    """One cloud of ``clouds.yaml``. `ca_file`: as the user's clients can read it; None where there is no TLS."""
    return {
        **({"cacert": str(ca_file)} if ca_file else {}),
        "auth": {
            "auth_url": _url(settings),
            "username": user,
            "password": password,
            "project_name": user,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": settings.cluster.region,
        "identity_api_version": "3",
        "volume_api_version": "3",
    }


def _read() -> dict[str, Any]:
    import yaml  # here, because the supervisor has this module loaded and never reads the file

    try:
        document = yaml.safe_load(path().read_text()) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise Problem(f"{path()} is not YAML, so the cloud cannot be added. Repair it, then: trilith up") from error
    if not isinstance(document, dict) or not isinstance(document.get("clouds", {}), dict):
        raise Problem(f"{path()} has no mapping `clouds`, so the cloud cannot be added. Repair it, then: trilith up")
    return document


def _write(document: dict[str, Any]) -> None:
    import yaml

    target = path().resolve()  # a link stays a link
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(target, yaml.safe_dump(document, sort_keys=False).encode())
