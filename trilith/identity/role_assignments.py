"""Who has which role where: grants one by one, and ``/v3/role_assignments``, which lists them, resolved where asked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from trilith.identity import relations, rules
from trilith.identity.domains import DOMAIN
from trilith.identity.groups import GROUP
from trilith.identity.notices import tell_assignment
from trilith.identity.projects import PROJECT, subtree
from trilith.identity.relations import ASSIGNMENT, MEMBERSHIP, SYSTEM
from trilith.identity.roles import GLOBAL, ROLE
from trilith.identity.users import USER
from trilith.identity.versions import IDENTITY, list_links
from trilith.kernel.declare import Noun
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx, forbidden
from trilith.kernel.store import Tx

Row = dict[str, Any]
TARGETS: dict[str, Noun] = {"project": PROJECT, "domain": DOMAIN}
ACTORS: dict[str, Noun] = {"user": USER, "group": GROUP}


# grants
@dataclass(frozen=True)
class Grant:
    """One path of grants: of what actor, on what target, for the projects below it or not."""

    actor: str
    target: str
    inherited: bool = False

    @property
    def path(self) -> str:
        place = "/system" if self.target == "system" else f"/{self.target}s/{{target_id}}"
        return f"{'/OS-INHERIT' if self.inherited else ''}{place}/{self.actor}s/{{actor_id}}/roles"

    def found(self, ctx: Ctx, changes: bool) -> Row:
        """What the path names, as columns of an assignment; 404 what does not exist, 403 what the caller may not."""
        actor = ctx.tx.get(ACTORS[self.actor], ctx.path["actor_id"])
        target = ctx.tx.get(TARGETS[self.target], ctx.path["target_id"]) if self.target != "system" else None
        role = ctx.tx.get(ROLE, ctx.path["role_id"]) if "role_id" in ctx.path else None
        if not self._may(ctx, changes, actor, target, role):
            raise forbidden(f"identity:{'create_grant' if changes else 'check_grant'}")
        if changes and role and role["domain_id"] not in (GLOBAL, _domain_of(target)):
            raise Fault("forbidden", f"Role {role['id']} belongs to another domain than its target.")
        found = {"actor_id": actor["id"], "target_id": target["id"] if target else SYSTEM, "inherited": self.inherited}
        return found | ({"role_id": role["id"]} if role else {})

    def _may(self, ctx: Ctx, changes: bool, actor: Row, target: Row | None, role: Row | None) -> bool:
        if ctx.may("admin") or (not changes and ctx.may("system_reader")):
            return True
        mine = ctx.who.domain_id
        if target is None or mine is None or actor["domain_id"] != mine or _domain_of(target) != mine:
            return False
        if changes:
            named = role is not None and role["domain_id"] == GLOBAL and role["name"] in rules.DOMAIN_MANAGED_ROLES
            return named and "manager" in ctx.who.roles
        return "reader" in ctx.who.roles and (role is None or role["domain_id"] in (GLOBAL, mine))


def _domain_of(target: Row | None) -> str | None:
    """A project's domain; a domain is its own."""
    return target.get("domain_id", target["id"]) if target else None


def _missing(row: Row) -> Fault:
    return Fault(
        "missing",
        f"Could not find role assignment with role: {row['role_id']}, user or group: {row['actor_id']}, "
        f"project, domain, or system: {row['target_id']}.",
    )


def _declare(grant: Grant) -> None:
    last = "/inherited_to_projects" if grant.inherited else ""

    def put(ctx: Ctx) -> None:
        row = grant.found(ctx, True)
        if relations.add(ctx.tx, ASSIGNMENT, **row, actor=grant.actor, target=grant.target):
            tell_assignment(ctx.tx, "created", row, grant.actor, grant.target)

    def check(ctx: Ctx) -> None:
        row = grant.found(ctx, False)
        if not relations.found(ctx.tx, ASSIGNMENT, **row):
            raise _missing(row)

    def take(ctx: Ctx) -> None:
        row = grant.found(ctx, True)
        if not relations.forget(ctx.tx, ASSIGNMENT, **row):
            raise _missing(row)
        tell_assignment(ctx.tx, "deleted", row, grant.actor, grant.target)

    def listed(ctx: Ctx) -> Row:
        found = relations.found(ctx.tx, ASSIGNMENT, **grant.found(ctx, False))
        roles = ctx.tx.rows(ROLE, id=[row["role_id"] for row in found])
        return {
            "roles": ctx.show_all(ROLE, sorted(roles, key=lambda role: str(role["name"]))),
            "links": list_links(ctx),
        }

    member = f"{grant.path}/{{role_id}}{last}"
    for method, run in (("PUT", put), ("GET", check), ("DELETE", take)):
        IDENTITY.route(method, member, "anyone", status=204)(run)
    IDENTITY.route("GET", f"{grant.path}{last}", "anyone")(listed)


for _actor in ACTORS:
    _declare(Grant(_actor, "system"))
    for _target in TARGETS:
        _declare(Grant(_actor, _target))
        _declare(Grant(_actor, _target, inherited=True))


# the list
@dataclass(frozen=True)
class Assignment:
    """One line of the list. The last four say where an effective role comes from."""

    actor: str
    actor_id: str
    target: str
    target_id: str
    role_id: str
    inherited: bool
    group_id: str = ""
    prior_role_id: str = ""
    from_target: str = ""
    from_id: str = ""


@IDENTITY.route("GET", "/role_assignments", rules.READ)
def list_assignments(ctx: Ctx) -> Row:
    asked = _asked(ctx)
    effective = "effective" in ctx.query and ctx.one("effective") != "0"
    lines = _stored(ctx.tx, asked.get("user"))
    if effective:
        lines = _effective(ctx.tx, lines)
    lines = [line for line in lines if all(wanted(line) for wanted in _conditions(ctx, asked))]
    if not ctx.may(rules.READ_ALL):
        lines = _in_domain(ctx, lines)
    names = _Names(ctx, lines) if "include_names" in ctx.query and ctx.one("include_names") != "0" else None
    found = [_view(ctx, line, names) for line in sorted(set(lines), key=repr)]
    return {"role_assignments": found, "links": list_links(ctx)}


def _stored(tx: Tx, user_id: str | None) -> list[Assignment]:
    """All of them, or those of one user and of the user's groups."""
    if user_id is None:
        return [Assignment(**row) for row in relations.found(tx, ASSIGNMENT)]
    actors = [user_id, *(row["group_id"] for row in relations.found(tx, MEMBERSHIP, user_id=user_id))]
    return [Assignment(**row) for row in tx.select(ASSIGNMENT.select().where(ASSIGNMENT.c.actor_id.in_(actors)))]


def _asked(ctx: Ctx) -> dict[str, str]:
    """The filters of the query, by the short names."""
    keys = {
        "user": "user.id",
        "group": "group.id",
        "role": "role.id",
        "project": "scope.project.id",
        "domain": "scope.domain.id",
        "system": "scope.system",
        "inherited": "scope.OS-INHERIT:inherited_to",
        "subtree": "include_subtree",
    }
    found = {name: str(ctx.one(key)) for name, key in keys.items() if ctx.one(key) is not None}
    if "user" in found and "group" in found:
        raise Fault("invalid", "Specify a user or group, not both")
    if sum(name in found for name in ("project", "domain", "system")) > 1:
        raise Fault("invalid", "Specify a domain or project, not both")
    if "group" in found and "effective" in ctx.query:
        raise Fault("invalid", "Combining effective and group filter will always result in an empty list.")
    if found.get("inherited", "projects") != "projects":
        raise Fault("invalid", "scope.OS-INHERIT:inherited_to must be projects.")
    if "subtree" in found and "project" not in found:
        raise Fault("invalid", "scope.project.id must be specified if include_subtree is also specified")
    return found


def _conditions(ctx: Ctx, asked: dict[str, str]) -> Iterable[Callable[[Assignment], bool]]:
    if "user" in asked:
        yield lambda line: (line.actor, line.actor_id) == ("user", asked["user"])
    if "group" in asked:
        yield lambda line: (line.actor, line.actor_id) == ("group", asked["group"])
    if "role" in asked:
        yield lambda line: line.role_id == asked["role"]
    if "project" in asked:
        places = {asked["project"]}
        if "subtree" in asked:
            places |= {row["id"] for row in subtree(ctx.tx, [asked["project"]])}
        yield lambda line: line.target == "project" and line.target_id in places
    if "domain" in asked:
        yield lambda line: (line.target, line.target_id) == ("domain", asked["domain"])
    if "system" in asked:
        yield lambda line: line.target == "system"
    if "inherited" in asked:
        yield lambda line: line.inherited or bool(line.from_id)


def _effective(tx: Tx, lines: list[Assignment]) -> list[Assignment]:
    """Of users only, on the targets themselves, implied roles spelled out."""
    found: list[Assignment] = []
    below: dict[str, list[str]] = {}
    for line in lines:
        if not line.inherited:
            found.append(line)
            continue
        if line.target_id not in below:
            below[line.target_id] = [row["id"] for row in subtree(tx, [line.target_id])]
        origin = replace(line, target="project", inherited=False, from_target=line.target, from_id=line.target_id)
        found += [replace(origin, target_id=name) for name in below[line.target_id]]
    members: dict[str, list[str]] = {}
    for row in relations.found(tx, MEMBERSHIP):
        members.setdefault(row["group_id"], []).append(row["user_id"])
    users = []
    for line in found:
        if line.actor == "user":
            users.append(line)
        else:
            of_group = replace(line, actor="user", group_id=line.actor_id)
            users += [replace(of_group, actor_id=name) for name in members.get(line.actor_id, [])]
    return _with_implied(tx, users)


def _with_implied(tx: Tx, lines: list[Assignment]) -> list[Assignment]:
    implied: dict[str, list[str]] = {}
    for row in relations.found(tx, relations.IMPLICATION):
        implied.setdefault(row["prior_role_id"], []).append(row["implied_role_id"])
    own = {row["id"] for row in tx.rows(ROLE, ROLE.c.domain_id != GLOBAL)}  # of a domain: only what they imply counts
    found: dict[Assignment, None] = {}
    for line in lines:
        left = [line]
        while left:
            one = left.pop()
            if one in found:
                continue
            found[one] = None
            more = [replace(one, role_id=name, prior_role_id=one.role_id) for name in implied.get(one.role_id, [])]
            left += more
    return [line for line in found if line.role_id not in own]


def _in_domain(ctx: Ctx, lines: list[Assignment]) -> list[Assignment]:
    """What a reader of one domain sees: assignments on it and on its projects."""
    mine = ctx.who.domain_id
    places = {row["id"] for row in ctx.tx.rows(PROJECT, domain_id=mine)} | {mine}
    return [line for line in lines if line.target_id in places]


class _Names:
    """Names of everything that the lines mention, each kind by one query."""

    def __init__(self, ctx: Ctx, lines: list[Assignment]) -> None:
        tx = ctx.tx
        ids = {name for line in lines for name in (line.actor_id, line.target_id, line.role_id)}
        self.rows: dict[str, Row] = {}
        for noun in (USER, GROUP, PROJECT, ROLE):
            self.rows |= {row["id"]: row for row in tx.rows(noun, id=ids)}
        self.domains = {row["id"]: row for row in tx.rows(DOMAIN)}

    def of(self, id_: str) -> Row:
        if id_ in self.domains:
            return {"id": id_, "name": self.domains[id_]["name"]}
        row = self.rows[id_]
        found: Row = {"id": id_, "name": row["name"]}
        if row["domain_id"]:
            found["domain"] = {"id": row["domain_id"], "name": self.domains[row["domain_id"]]["name"]}
        return found


def _view(ctx: Ctx, line: Assignment, names: _Names | None) -> Row:
    def named(id_: str) -> Row:
        return names.of(id_) if names else {"id": id_}

    place: Row = {"system": {"all": True}} if line.target == "system" else {line.target: named(line.target_id)}
    if line.inherited or line.from_id:
        place["OS-INHERIT:inherited_to"] = "projects"
    found = {"role": named(line.role_id), line.actor: named(line.actor_id), "scope": place}
    return found | {"links": _line_links(ctx, line)}


def _line_links(ctx: Ctx, line: Assignment) -> Row:
    actor, actor_id = ("group", line.group_id) if line.group_id else (line.actor, line.actor_id)
    target, target_id = (line.from_target, line.from_id) if line.from_id else (line.target, line.target_id)
    grant = Grant(actor, target, line.inherited or bool(line.from_id))
    path = grant.path.replace("{target_id}", target_id).replace("{actor_id}", actor_id)
    last = "/inherited_to_projects" if grant.inherited else ""
    found = {"assignment": ctx.url(f"{path}/{line.prior_role_id or line.role_id}{last}")}
    if line.group_id:
        found["membership"] = ctx.url(f"/groups/{line.group_id}/users/{line.actor_id}")
    if line.prior_role_id:
        found["prior_role"] = ctx.url(f"/roles/{line.prior_role_id}")
    return found
