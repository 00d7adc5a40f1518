"""Who may do what in identity, beyond the common rules: readers of the whole system, and people of one domain.

A rule without a row (a list, a creation before its body is known) asks for the scope alone; lists are then narrowed
to the caller's domain, and creations are asked again with the new row.
"""

from trilith.kernel.policy import Principal, Row, rule

DOMAIN_MANAGED_ROLES = frozenset({"manager", "member", "reader"})  # what a domain's manager may give and take


@rule("system_reader")
def is_system_reader(who: Principal, row: Row | None) -> bool:
    return who.system and "reader" in who.roles


def _of_domain(who: Principal, row: Row | None) -> bool:
    return who.domain_id is not None and (row is None or row.get("domain_id") == who.domain_id)


@rule("domain_reader")
def is_domain_reader(who: Principal, row: Row | None) -> bool:
    return "reader" in who.roles and _of_domain(who, row)


@rule("domain_manager")
def is_domain_manager(who: Principal, row: Row | None) -> bool:
    return "manager" in who.roles and _of_domain(who, row)


@rule("self")
def is_self(who: Principal, row: Row | None) -> bool:
    """The row is the caller, or belongs to the caller alone."""
    return row is not None and who.user_id in (row.get("id"), row.get("user_id"))


@rule("own_project")
def is_own_project(who: Principal, row: Row | None) -> bool:
    return row is not None and row.get("id") == who.project_id


READ = "admin|system_reader|domain_reader"
READ_ALL = "admin|system_reader"
MANAGE = "admin|domain_manager"
POLICY = dict(list=READ, show=READ, create=MANAGE, update=MANAGE, delete=MANAGE)  # of what belongs to a domain
