"""One request on its way: what it is about, who asks, and what that one may do.

Who may: the project's own people by role, as Swift's keystoneauth says it (``admin``, ``member`` and ``swiftoperator``
own the project's account, ``reader`` reads it; administrators of the cloud and ``ResellerAdmin`` own every account);
anybody whom a container's list names; and whoever comes with a signed URL, for what that URL says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from trilith.kernel.policy import Principal
from trilith.objectstore import acls
from trilith.objectstore.limits import OWNER_HEADERS
from trilith.objectstore.messages import Answered, Headers, Request, quoted
from trilith.objectstore.store import Account, Container, Store

OPERATORS = frozenset({"admin", "member", "swiftoperator"})
RESELLERS = frozenset({"admin", "reselleradmin"})
READING = ("GET", "HEAD")
PREFIX = "AUTH_"
DEFAULT_DOMAIN = "default"


class Identity(Protocol):
    """Who somebody is, by the cloud's identity service. Blocks."""

    def caller(self, request: Request) -> Principal | None:
        """None without a token that is valid now. `Fault("forbidden")` for a token that may not do this."""

    def domain_of(self, project_id: str) -> str | None:
        """The domain of a project; None if there is none."""


@dataclass(frozen=True)
class Target:
    """An account, a container (`container` is not empty), or an object (`name` is not empty, too)."""

    account: str
    container: str = ""
    name: str = ""

    @property
    def kind(self) -> str:
        return "object" if self.name else "container" if self.container else "account"

    @property
    def path(self) -> str:
        """As Swift writes it in headers and listings: ``/v1/AUTH_x/c/o``, quoted."""
        return quoted("/".join(["/v1", *filter(None, (self.account, self.container, self.name))]))


@dataclass(frozen=True)
class Grant:
    """What a signed URL or form allows: these methods, where `covers` says so. It answers for all else."""

    methods: tuple[str, ...]
    covers: Callable[[Target], bool]


@dataclass
class Call:
    """`who` None: nobody that is known."""

    request: Request
    target: Target
    store: Store
    identity: Identity
    who: Principal | None = None
    grant: Grant | None = None
    _containers: dict[Target, Container | None] = field(default_factory=dict)

    # what is there
    def container(self, target: Target) -> Container | None:
        """The container of a target, as it was when this call first looked."""
        key = Target(target.account, target.container)
        if key not in self._containers:
            self._containers[key] = self.store.container(key.account, key.container)
        return self._containers[key]

    def account(self, name: str) -> Account | None:
        return self.store.account(name)

    def at(self, target: Target, request: Request | None = None) -> "Call":
        """The same caller about something else."""
        return replace(self, target=target, request=request or self.request)

    # who may
    def owns(self, account: str) -> bool:
        """Whether the caller may do everything with an account but delete it."""
        if self.grant is not None or self.who is None:
            return False
        roles = self._roles()
        return bool(roles & RESELLERS) or (self._is_own(account) and bool(roles & OPERATORS))

    @property
    def is_reseller(self) -> bool:
        return self.who is not None and self.grant is None and bool(self._roles() & RESELLERS)

    def require(self, method: str, target: Target, acl: str | None = None) -> None:
        """Raises 401 or 403 where the caller may not. `acl`: the container's list for this method, where it has one."""
        if self.grant is not None:
            if method in self.grant.methods and self.grant.covers(target):
                return
            raise self.denied(target)
        referrers, groups = acls.parsed(acl or "")
        if self.owns(target.account) or (self.who is not None and self._named(target.account, groups)):
            return
        referred = acls.referrer_allowed(self.request.headers.get("referer", ""), referrers)
        if referred and (target.name or ".rlistings" in groups):
            return
        if self.who is not None and self._is_own(target.account) and self._by_role(method, groups):
            return
        raise self.denied(target)

    def require_reading(self, target: Target) -> Container:
        """The container of an object or listing that the caller may read. Raises 401, 403, 404."""
        return self._required("GET", target, "x-container-read")

    def require_writing(self, target: Target, method: str = "PUT") -> Container:
        return self._required(method, target, "x-container-write")

    def _required(self, method: str, target: Target, header: str) -> Container:
        found = self.container(target)
        self.require(method, target, found.headers.get(header) if found else None)
        if found is None:
            raise Answered(404)
        return found

    def denied(self, target: Target) -> Answered:
        if self.who is not None and self.grant is None:
            return Answered(403)
        return Answered(401, "", {"www-authenticate": f'Swift realm="{quoted(target.account) or "unknown"}"'})

    def _roles(self) -> frozenset[str]:
        return frozenset(role.lower() for role in self.who.roles) if self.who else frozenset()

    def _is_own(self, account: str) -> bool:
        return self.who is not None and self.who.project_id is not None and account == f"{PREFIX}{self.who.project_id}"

    def _by_role(self, method: str, groups: list[str]) -> bool:
        """Of the account's own project."""
        roles = self._roles()
        return (method in READING and "reader" in roles) or bool(roles & {group.lower() for group in groups})

    def _named(self, account: str, groups: list[str]) -> bool:
        """``project:user`` by ids, or by names where all three are of the default domain."""
        assert self.who is not None
        if not any(":" in group for group in groups):
            return False
        projects, users = ["*", self.who.project_id], ["*", self.who.user_id]
        if self._names_are_clear(account):
            projects.append(str(self.who.token.get("project_name") or ""))
            users.append(str(self.who.token.get("user_name") or ""))
        return any(f"{project}:{user}" in groups for project in projects if project for user in users if user)

    def _names_are_clear(self, account: str) -> bool:
        assert self.who is not None
        if {self.who.user_domain_id, self.who.project_domain_id} != {DEFAULT_DOMAIN}:
            return False
        return self._is_own(account) or self.identity.domain_of(account.removeprefix(PREFIX)) == DEFAULT_DOMAIN


def visible(headers: Headers, owner: bool) -> Headers:
    """Without what only the owner sees, and without what is ours."""
    return {
        name: value
        for name, value in headers.items()
        if (owner or name not in OWNER_HEADERS) and "-sysmeta-" not in name and value
    }
