"""Writers in several processes, as on several controllers: what was counted stays so."""

import subprocess
import sys
from pathlib import Path

from tests.database import DATABASES, url_for
from tests.kernel.test_portable import BOOK
from trilith.kernel.store import Store

PROCESSES, EACH = 3, 6
WORK = """
import sys, threading
from tests.kernel.test_portable import BOOK, SHELF
from trilith.kernel import quota
from trilith.kernel.errors import Fault
from trilith.kernel.store import Store

url, own, each = sys.argv[1], sys.argv[2], int(sys.argv[3])
store, refused = Store(url), []

def make(number):
    def work(tx):
        quota.check(tx, SHELF, "p", books=1)
        highest = max((row["pages"] for row in tx.rows(BOOK)), default=0)
        tx.insert(BOOK, {"id": f"{own}-{number}", "title": f"{own}-{number}", "project_id": "p", "pages": highest + 1})
    try:
        store.run(work)
    except Fault:
        refused.append(number)

sys.stdin.readline()
threads = [threading.Thread(target=make, args=(number,)) for number in range(each)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(refused))
"""


def test_a_quota_and_a_number_hold_over_processes(tmp_path: Path, database: str) -> None:
    store = Store(url_for(tmp_path))
    store.create()
    argv = [sys.executable, "-c", WORK, store.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    makers = [subprocess.Popen([*argv, str(n), str(EACH)], **pipes) for n in range(PROCESSES)]  # type: ignore[call-overload]
    for maker in makers:  # all have imported everything by the time the last one is told
        maker.stdin.write("go\n")
        maker.stdin.flush()
    refused = sum(int(maker.communicate(timeout=60)[0]) for maker in makers)
    rows = store.read(lambda tx: tx.rows(BOOK))
    assert sorted(row["pages"] for row in rows) == [1, 2, 3, 4, 5]
    assert refused == PROCESSES * EACH - 5
    if database == "mariadb":
        DATABASES.wrote(tmp_path, BOOK.table.name, "commits")
