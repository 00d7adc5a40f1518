"""Events that other services tell compute of. In this cloud they are rows of the same database, so what is told is
known already: events are checked, answered and wake the server's host."""

from typing import Any

from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.kinds import Bad, Choice, Id, ListOf, Member, Object, Text
from trilith.kernel.request import Ctx, Reply
from trilith.kernel.versions import v
from trilith.placement.hosts import topic

Row = dict[str, Any]
NAMES = {
    "network-changed": v("2.1"),
    "network-vif-plugged": v("2.1"),
    "network-vif-unplugged": v("2.1"),
    "network-vif-deleted": v("2.1"),
    "volume-extended": v("2.51"),
    "power-update": v("2.76"),
    "accelerator-request-bound": v("2.82"),
    "volume-reimaged": v("2.93"),
}
NEED_TAG = ("volume-extended", "power-update", "accelerator-request-bound", "volume-reimaged")
EVENTS = Object(
    {
        "events": Member(
            ListOf(
                Object(
                    {
                        "name": Member(Choice(tuple(NAMES)), required=True),
                        "server_uuid": Member(Id(), required=True),
                        "status": Member(Choice(("failed", "completed", "in-progress"))),
                        "tag": Member(Text(255)),
                    }
                ),
                least=1,
            ),
            required=True,
        )
    }
)


@COMPUTE.route("POST", "/os-server-external-events", "admin|service", body=EVENTS)
def create(ctx: Ctx) -> Reply:
    events = ctx.body["events"]
    for n, event in enumerate(events):
        if NAMES[event["name"]] > ctx.at:
            raise Bad(f"events.{n}.name", event["name"], f"{event['name']!r} is not one of the known names")
    servers = {row["id"]: row for row in ctx.tx.rows(SERVER, id={e["server_uuid"] for e in events}, deleted_at=None)}
    answers = [event | _answer(ctx, event, servers.get(event["server_uuid"])) for event in events]
    return Reply({"events": answers}, 200 if all(answer["code"] == 200 for answer in answers) else 207)


def _answer(ctx: Ctx, event: Row, server: Row | None) -> Row:
    if server is None:
        return {"status": "failed", "code": 404}
    if event["name"] in NEED_TAG and not event.get("tag"):
        return {"status": "failed", "code": 400}
    if server["host"] is None:
        return {"status": "failed", "code": 422}
    ctx.tx.hint(topic(server["host"]))
    return {"status": "completed", "code": 200}
