"""What a request says of a port beside its place: address pairs, DHCP options, empty values."""

from typing import Any

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Address, Either, Id, Mac, Member, Object, Prefix, Text, Whole

Row = dict[str, Any]

FIXED_IP = Object({"subnet_id": Member(Id(), null=True), "ip_address": Member(Address(), null=True)})
ADDRESS_PAIR = Object(
    {
        "ip_address": Member(Either((Address(), Prefix(loose=True))), required=True),
        "mac_address": Member(Mac(), null=True),
    }
)
DHCP_OPTION = Object(
    {
        "opt_name": Member(Text(64, 1), required=True),
        "opt_value": Member(Text(255), null=True),
        "ip_version": Member(Whole(4, 6)),
    }
)


def tidy(body: Row) -> None:
    """Null means the empty value; pairs and options in their full form."""
    for name, empty in (("device_id", ""), ("device_owner", ""), ("binding_host", ""), ("dns_name", "")):
        if name in body and body[name] is None:
            body[name] = empty
    if "allowed_address_pairs" in body:
        body["allowed_address_pairs"] = _checked_pairs(body["allowed_address_pairs"] or [])
    for option in body.get("extra_dhcp_opts") or []:
        option.setdefault("ip_version", 4)
    if body.get("binding_profile", ()) is None:
        body["binding_profile"] = {}
    if body.get("dns_name"):
        body["dns_name"] = body["dns_name"].lower()
    if body.get("mac_address", ()) == "":
        body["mac_address"] = None


def _checked_pairs(pairs: list[Row]) -> list[Row]:
    if any(pairs.count(pair) > 1 for pair in pairs):
        raise Fault("invalid", "Request contains duplicate address pair.", "DuplicateAddressPairInRequest")
    return pairs


def with_mac(pairs: list[Row], mac: str) -> list[Row]:
    return [pair | {"mac_address": pair.get("mac_address") or mac} for pair in pairs]


def merged_options(old: list[Row], asked: list[Row]) -> list[Row]:
    """An option that is asked for with null goes; the others are set."""
    found = {(option["opt_name"], option["ip_version"]): option for option in old}
    for option in asked:
        key = (option["opt_name"], option["ip_version"])
        if option.get("opt_value") is None:
            found.pop(key, None)
        else:
            found[key] = {"opt_name": key[0], "opt_value": option["opt_value"], "ip_version": key[1]}
    return list(found.values())
