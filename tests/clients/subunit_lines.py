"""A subunit stream as lines of JSON, one a test: id, status, reason, begun, ended. Run by the clients' Python.

    stestr last --subunit | python subunit_lines.py

`reason`: why it was skipped, or the exception. `begun`, `ended`: seconds since 1970, or null.
"""

import json
import sys
from datetime import datetime
from typing import Any

import subunit
from testtools import StreamToDict

MOST = 300  # characters of a reason


def reason(details: dict[str, Any]) -> str:
    """What stands behind the last line of code of the first traceback, unless it says why it was skipped."""
    if "reason" in details:
        return str(details["reason"].as_text()).strip()
    tracebacks = [details[name].as_text() for name in sorted(details) if name.startswith("traceback")]
    said: list[str] = []
    for line in tracebacks[0].splitlines() if tracebacks else []:
        said = [] if line.startswith(" ") else [*said, line.strip()]
    return " ".join(said)[:MOST]


def seconds(time: datetime | None) -> float | None:
    return None if time is None else round(time.timestamp(), 3)


def tell(test: dict[str, Any]) -> None:
    begun, ended = (seconds(time) for time in test["timestamps"])
    facts = {"id": test["id"], "status": test["status"], "reason": reason(test["details"])}
    print(json.dumps({**facts, "begun": begun, "ended": ended}))


def main() -> None:
    result = StreamToDict(tell)
    result.startTestRun()
    subunit.ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="stdout").run(result)
    result.stopTestRun()


if __name__ == "__main__":
    main()
