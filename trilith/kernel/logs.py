"""Logs: one JSON object a line: time, level, process, request_id, message, and what the call gave as `extra`.

Never put a secret, a token or a request's body into a message or an extra.
"""

import contextvars
import json
import logging
import logging.handlers
import os
import sys
import threading
import traceback
import types
from datetime import UTC, datetime
from pathlib import Path

REQUEST_ID: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
_STANDARD = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}


class JsonLine(logging.Formatter):
    """One record as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "request_id": REQUEST_ID.get(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def start_log(process: str, directory: Path, level: int = logging.INFO) -> None:
    """Send every record of this process to ``directory/PROCESS.jsonl``. The supervisor renames the file when it has
    grown; the handler notices and opens a new one, so several processes can share it."""
    path = directory / f"{process}.jsonl"
    with open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600)):
        pass
    handler = logging.handlers.WatchedFileHandler(path)
    handler.setFormatter(JsonLine(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: types.TracebackType | None) -> None:
    """What ends a process or a thread stands in the log too, not only on its stderr."""
    if error is not None and not issubclass(kind, SystemExit | KeyboardInterrupt):
        logging.getLogger("trilith").critical("uncaught: %s", error, exc_info=(kind, error, trace))
    sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
