"""The shape checker finds what it is there to find, and nothing in a good tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import shape

LONG = "x = 1\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("trilith/kernel/store.py", "import os\nfrom trilith.compute import servers\n", 2, "may not import"),
        ("trilith/kernel/store.py", "from trilith.drivers.qemu import Qemu\n", 1, "may not import"),
        ("trilith/kernel/store.py", "def f():\n    import trilith.agent.main\n", 2, "may not import"),
        ("trilith/compute/servers.py", "from trilith.drivers import qemu\n", 1, "may not import"),
        ("trilith/compute/servers.py", "from ..drivers import qemu\n", 1, "may not import"),
        ("trilith/compute/servers.py", "from trilith.network.port_plan import plan\n", 1, "may not import"),
        ("trilith/compute/servers.py", "from trilith.agent.machines import Machines\n", 1, "may not import"),
        ("trilith/drivers/qemu.py", "from trilith.kernel.store import Store\n", 1, "may not import"),
        ("trilith/drivers/qemu.py", "from trilith.compute.servers import SERVER\n", 1, "may not import"),
        ("trilith/compute/servers.py", LONG * 601, 0, "601 lines"),
        ("trilith/drivers/qemu.py", LONG * 2001, 0, "2001 lines"),
        ("trilith/compute/server_utils.py", "", 0, "named utils"),
        ("tests/compute/helper.py", "", 0, "named helper"),
        ("trilith/compute/servers.py", "\nclass ServerManager:\n    pass\n", 2, "named manager"),
        ("trilith/compute/servers.py", "def misc_things() -> None: ...\n", 1, "named misc"),
        ("trilith/agent/main.py", "try:\n    pass\nexcept Exception:\n    raise\n", 3, "catches everything"),
        ("trilith/agent/main.py", "try:\n    pass\nexcept:\n    raise\n", 3, "catches everything"),
        ("trilith/agent/main.py", "try:\n    pass\nexcept (OSError, Exception):\n    raise\n", 3, "catches"),
        ("tests/test_x.py", "from unittest import mock\n", 1, "mocks"),
        ("tests/test_x.py", "from unittest.mock import patch\n", 1, "mocks"),
        ("tests/test_x.py", "import mock\nmock.patch('a.b')\n", 2, "mocks"),
        ("trilith/agent/main.py", "x = 1\n# TODO later\n", 2, "TODO"),
        ("trilith/agent/main.py", "raise NotImplementedError\n", 1, "NotImplementedError"),
        ("tests/test_x.py", 'HERE = "/work/main"\n', 1, "path of one machine"),
        ("tests/test_x.py", "def broken(:\n", 1, "is not Python"),
        ("requirements.lock", "a==1\n--index-url https://example.org/simple\n", 2, "registry"),
    ],
)
def test_finds(tmp_path: Path, name: str, text: str, line: int, says: str) -> None:
    findings = shape.check(tree(tmp_path, {name: text}))
    assert len(findings) == 1, findings
    assert findings[0][:2] == (name, line)
    assert says in findings[0][2]


def test_kernel_as_a_whole_is_small(tmp_path: Path) -> None:
    files = {f"trilith/kernel/part{n}.py": LONG * 590 for n in range(7)}
    assert shape.check(tree(tmp_path, files)) == [
        ("trilith/kernel", 0, "has 4130 lines in all, at most 4000 are allowed")
    ]


def test_good_tree(tmp_path: Path) -> None:
    files = {
        "trilith/kernel/http.py": "try:\n    pass\nexcept Exception:\n    raise\n",
        "trilith/kernel/store.py": "from trilith.kernel.errors import Fault\nimport sqlalchemy\n",
        "trilith/compute/servers.py": "from trilith import __version__\nfrom trilith.network import ports\n",
        "trilith/drivers/qemu.py": "from trilith.kernel.errors import Refused\nfrom trilith.drivers.qmp import Qmp\n",
        "trilith/agent/main.py": "from trilith.drivers.qemu import Qemu\nimport trilith.compute.server_plan\n",
        "requirements.lock": "a==1 \\\n    --hash=sha256:00\n",
    }
    assert shape.check(tree(tmp_path, files)) == []


def test_command_tells_place_and_fails(tmp_path: Path) -> None:
    tree(tmp_path, {"trilith/compute/utils.py": ""})
    command = [sys.executable, "-m", "tools.shape", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(shape.__file__).parent.parent)
    assert done.returncode == 1
    assert done.stdout.startswith("trilith/compute/utils.py:0: ")
