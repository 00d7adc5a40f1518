"""The volume service (block storage, API version 3), its dialect, and its version documents."""

from typing import Any

from trilith.kernel.declare import Noun, Service
from trilith.kernel.errors import Fault
from trilith.kernel.paging import Condition
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import VersionRange, v
from trilith.kernel.wire import Wire

Row = dict[str, Any]


class VolumeWire(Wire):
    empty_id_is_missing = True
    statuses = {"list": 200, "show": 200, "create": 202, "update": 200, "delete": 202}
    over_quota = 413
    strict_query_since = (3, 31)
    reserved = Wire.reserved | {"with_count", "usage"}

    def unknown_marker(self, noun: Noun, marker: str) -> Fault:
        return Fault("missing", f"{noun.name.capitalize()} {marker} could not be found.")

    def extra_envelope_keys(self, noun: Noun, body: Row) -> bool:
        return True

    def _sort_column(self, noun: Noun, key: str, direction: str) -> tuple[str, str]:
        return super()._sort_column(noun, key.removeprefix("display_"), direction)

    def filtered(self, ctx: Ctx, noun: Noun, name: str, values: list[str]) -> Condition | None:
        if name.endswith("~"):  # key~=value: "like", from 3.34
            column, item = noun.by_wire().get(name[:-1], ("", None))
            if item is None or not item.filter or ctx.at < (3, 34):
                return self.unknown_filter(ctx, noun, name)
            return noun.c[column].contains(values[-1], autoescape=True)  # type: ignore[no-any-return]
        return super().filtered(ctx, noun, name, values)


ROOT = Service("volume-root", "block-storage", "/volume", VolumeWire())
RANGE = VersionRange("volume", v("3.0"), v("3.71"))
VOLUMES = Service("volume", "block-storage", "/volume/v3", VolumeWire(), RANGE, project_in_path=True)


def _versions(ctx: Ctx) -> dict[str, Any]:
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": "3.71",
                "min_version": "3.0",
                "updated": "2026-03-01T00:00:00Z",
                "links": [
                    {"rel": "self", "href": f"{ctx.base_url}/volume/v3/"},
                ],
                "media-types": [
                    {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
                ],
            }
        ]
    }


@ROOT.route("GET", "", "public")
def choices(ctx: Ctx) -> Reply:
    return Reply(_versions(ctx), 300)


@VOLUMES.route("GET", "", "public")
def versions(ctx: Ctx) -> dict[str, Any]:
    return _versions(ctx)
