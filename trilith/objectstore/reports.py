"""What many things at once came to: of bulk requests, and of manifests whose segments are not as they should be."""

import json
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from trilith.objectstore.messages import REASONS, Response

ACCEPTED = ("text/plain", "application/json", "application/xml", "text/xml")


def status_line(status: int) -> str:
    return f"{status} {REASONS[status][0]}"


@dataclass
class Report:
    """`what`: the name of the root in XML. `counts`: numbers by their name, in order. `errors`: (name, why)."""

    what: str
    errors: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    body: str = ""

    def response(self, status: int, media: str) -> Response:
        return Response(status, {"content-type": media}, self.text(media).encode())

    def text(self, media: str) -> str:
        shown: dict[str, str | int] = dict(self.counts)
        if self.status is not None:
            shown |= {"Response Status": status_line(self.status), "Response Body": self.body}
        if media.endswith("json"):
            return json.dumps({**shown, "Errors": [list(error) for error in self.errors]})
        if media.endswith("xml"):
            lines = [f"<{_tag(name)}>{escape(str(value))}</{_tag(name)}>\n" for name, value in shown.items()]
            errors = "".join(
                f"<object><name>{escape(name)}</name><status>{escape(why)}</status></object>\n"
                for name, why in self.errors
            )
            return f"<{self.what}>\n{''.join(lines)}<errors>\n{errors}</errors>\n</{self.what}>\n"
        lines = [f"{name}: {value}\n" for name, value in shown.items()]
        return "".join([*lines, "Errors:\n", *(f"{name}, {why}\n" for name, why in self.errors)])


def _tag(name: str) -> str:
    return name.lower().replace(" ", "_")
