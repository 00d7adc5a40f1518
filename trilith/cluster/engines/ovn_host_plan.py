"""What a host does to be a chassis of OVN: pure.

Steps, each only when those before are done: the switch runs; its settings; its bridges; addresses and MTUs of their
links; the kernel keeps out of what arrives for the switch; ovn-controller. Only then, because a chassis that has
ovn-controller but no tunnels is alone, and one that is alone may take itself for the last gateway.

With the datapath in userspace (``netdev``) the tunnel's address sits on the bridge `PHYSICAL`, and the interface below
it gives the kernel nothing.
"""

from typing import Any

from trilith.kernel.reconcile import Act, Doc

INTEGRATION, EXTERNAL, PHYSICAL = "br-int", "br-ex", "br-phy"


def plan(want: Doc, seen: Doc) -> list[Act]:
    """The next acts."""
    if acts := _run(want, seen, want["switch_units"]):
        return acts
    if seen["switch"] is None or (blocked(want, seen) is not None):
        return []
    for step in (_settings, _bridges, _links, _drops):
        if acts := step(want, seen):
            return acts
    if acts := _run(want, seen, want["controller_units"]):
        return acts
    return [Act("follow")] if seen["controller"] == "not connected" else []


def _run(want: Doc, seen: Doc, names: list[str]) -> list[Act]:
    acts = []
    for name in names:
        state = seen["units"][name]
        if state["active"] in ("inactive", "failed"):
            acts.append(Act("start", {"unit": name}))
        elif state["active"] == "active" and state["pid"] and _is_stale(want, name, state["runs_with"]):
            acts.append(Act("restart", {"unit": name}))
    return acts


def _is_stale(want: Doc, unit: str, runs_with: str | None) -> bool:
    return runs_with is None if unit not in want["restarted"] else runs_with != want["units"][unit]["digest"]


def _settings(want: Doc, seen: Doc) -> list[Act]:
    wanted = settings(want, seen)
    if all(seen["switch"][column].items() >= values.items() for column, values in wanted.items()):
        return []
    return [Act("set_switch", wanted)]


def settings(want: Doc, seen: Doc) -> Doc:
    """Columns of the switch's own row."""
    ids = want["external_ids"] | {"ovn-bridge-datapath-type": seen["datapath"]}
    mappings = [f"{name}:{EXTERNAL}" for name in want["physical_networks"]] if has_provider(want, seen) else []
    # With it on, tunnels between hosts carry no TCP (OVS 3.1).
    return {
        "external_ids": ids | {"ovn-bridge-mappings": ",".join(mappings)},
        "other_config": {"userspace-tso-enable": "false"},
    }


def has_provider(want: Doc, seen: Doc) -> bool:
    """Whether external networks reach this host. On network hosts they must; on others it may be."""
    return bool(want["provider_interface"] in seen["links"])


def in_userspace(seen: Doc) -> bool:
    return bool(seen["datapath"] == "netdev")


def _bridges(want: Doc, seen: Doc) -> list[Act]:
    acts = []
    for name, bridge in bridges(want, seen).items():
        there = seen["switch"]["bridges"].get(name)
        same = there is not None and all(there[key] == bridge[key] for key in ("datapath_type", "fail_mode"))
        same = same and there is not None and there["other_config"].items() >= bridge["other_config"].items()
        if not same or not set(bridge["ports"]) <= set(there["ports"] if there else []):
            acts.append(Act("make_bridge", {"name": name, **bridge}))
    if not in_userspace(seen) and PHYSICAL in seen["switch"]["bridges"]:
        acts.append(Act("remove_bridge", {"name": PHYSICAL}))
    return acts


def bridges(want: Doc, seen: Doc) -> dict[str, Doc]:
    """Each with the ports that it has at least."""
    kind = seen["datapath"]

    def bridge(ports: list[str], fail_mode: str | None = None, **other_config: str) -> Doc:
        return {"datapath_type": kind, "fail_mode": fail_mode, "other_config": other_config, "ports": ports}

    found = {INTEGRATION: bridge([], "secure", **{"disable-in-band": "true"})}
    if has_provider(want, seen):
        found[EXTERNAL] = bridge([want["provider_interface"]])
    if in_userspace(seen):
        below = want["tunnel_interface"]
        # Neighbours know the interface's own address: frames must come from it.
        found[PHYSICAL] = bridge([below], hwaddr=seen["links"][below]["mac"])
    return found


def links(want: Doc, seen: Doc) -> dict[str, Doc]:
    """How links shall be: up, of this MTU (0: whichever), with exactly these addresses (None: whichever)."""
    found: dict[str, Doc] = {}
    if has_provider(want, seen):
        found |= {name: {"mtu": 0, "addresses": []} for name in (want["provider_interface"], EXTERNAL)}
    if in_userspace(seen):
        mtu = want["tunnel_mtu"]
        # The address comes here before it goes there: the length of its prefix may be known from nowhere else.
        found[PHYSICAL] = {"mtu": mtu, "addresses": [tunnel_cidr(want, seen)]}
        found[want["tunnel_interface"]] = {"mtu": mtu, "addresses": []}
    return found


def tunnel_cidr(want: Doc, seen: Doc) -> str | None:
    """The tunnel's address with the length of its network's prefix, from the cluster file or as it is found here."""
    address, length = want["tunnel_address"], want["tunnel_prefix_length"]
    for name in (want["tunnel_interface"], PHYSICAL):
        for cidr in seen["links"].get(name, {"addresses": []})["addresses"]:
            found, _, digits = cidr.partition("/")
            if found == address and length is None:
                length = int(digits)
    return None if length is None else f"{address}/{length}"


def _links(want: Doc, seen: Doc) -> list[Act]:
    acts = []
    for name, link in links(want, seen).items():
        there = seen["links"].get(name) or {"up": False}  # the switch makes its own in a moment
        right = there["up"] and link["mtu"] in (0, there["mtu"]) and set(there["addresses"]) == set(link["addresses"])
        if not right:
            acts.append(Act("set_link", {"name": name, **link}))
    return acts


def drops(want: Doc, seen: Doc) -> list[str]:
    """Interfaces whose frames a userspace bridge takes: the kernel would answer them a second time."""
    if not in_userspace(seen):
        return []
    provider = [want["provider_interface"]] if has_provider(want, seen) else []
    return sorted([want["tunnel_interface"], *provider])


def _drops(want: Doc, seen: Doc) -> list[Act]:
    wanted = drops(want, seen)
    return [] if sorted(seen["drops"]) == wanted else [Act("leave_to_switch", {"interfaces": wanted})]


def blocked(want: Doc, seen: Doc) -> str | None:
    """What only an operator can change."""
    if seen["datapath"] is None:
        return None
    provider, tunnel = want["provider_interface"], want["tunnel_interface"]
    if want["is_gateway"] and not has_provider(want, seen):
        return f"There is no interface {provider}, which a network host needs (networks.provider_interface)."
    if not in_userspace(seen):
        return None
    if tunnel not in seen["links"]:
        return f"There is no interface {tunnel} (networks.tunnel_interface)."
    if want["tunnel_shared"]:
        return (
            "Without the kernel's openvswitch module, tunnels need an interface of their own: give the host a "
            "tunnel_address, on another interface than the management network's."
        )
    if tunnel_cidr(want, seen) is None:
        return f"{tunnel} has not the address {want['tunnel_address']}; write the network into networks.tunnel."
    return None


def problem(want: Doc, seen: Doc) -> str | None:
    """What an operator shall know."""
    if seen["switch"] is not None and (reason := blocked(want, seen)) is not None:
        return reason
    units = [*want["switch_units"], *want["controller_units"]]
    if idle := [name for name in units if seen["units"][name]["active"] != "active"]:
        return f"{', '.join(idle)} is not running. See: journalctl -u {idle[0]}"
    if seen["switch"] is None:
        return "Open vSwitch does not answer."
    return "ovn-controller does not reach the southbound database." if seen["controller"] != "connected" else None


def detail(seen: Doc) -> dict[str, Any]:
    return {"datapath": seen["datapath"], "connected": seen["controller"] == "connected"}
