"""Where versions of objects lie (``X-Versions-Enabled``): in a container of their own, whose name no user can say.

An object's versions stand behind one another there, the newest first. A version's id is the time of its upload.
"""

import re

from trilith.objectstore.calls import Target
from trilith.objectstore.messages import Answered

HIDDEN = "\0"  # what no name of a user has
LAST_HIDDEN = "\0\U0010ffff"  # behind every name of ours
ENABLED = "x-versions-enabled"
VERSION = "x-object-sysmeta-version-id"
"Of a version: which one it is."
CURRENT = "x-object-sysmeta-current-version"
"Of an object that has no bytes of its own: which version it is."
DELETED = "application/x-deleted;swift_versions_deleted=1"
_NEWEST = 10**15 - 1


def hidden(target: Target) -> Target:
    """The container of a container's versions."""
    return Target(target.account, f"{HIDDEN}versions{HIDDEN}{target.container}")


def version_at(target: Target, version_id: str) -> Target:
    """Where a version of an object lies. Raises 400 for what is no id."""
    if not re.fullmatch(r"[0-9]{10}\.[0-9]{5}", version_id):
        raise Answered(400, "Invalid version parameter")
    place = hidden(target)
    return Target(place.account, place.container, f"{before_versions(target.name)}{_inverse(version_id)}")


def before_versions(name: str) -> str:
    """What the names of all versions of an object begin with."""
    return f"{HIDDEN}{name}{HIDDEN}"


def parsed(name: str) -> tuple[str, str]:
    """(object, version id) of a version's name."""
    _, found, inverse = name.split(HIDDEN)
    digits = f"{_NEWEST - int(inverse):015d}"
    return found, f"{digits[:10]}.{digits[10:]}"


def _inverse(version_id: str) -> str:
    return f"{_NEWEST - int(version_id.replace('.', '')):015d}"
