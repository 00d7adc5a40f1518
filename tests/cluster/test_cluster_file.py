from pathlib import Path

import pytest

from trilith.cluster.cluster_file import ALL_ROLES, ClusterFileError, all_in_one, read

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_is_the_all_in_one_cloud() -> None:
    cluster = read(EXAMPLES / "all-in-one.yaml")
    assert cluster == all_in_one("host1")
    assert cluster.hosts[0].roles == list(ALL_ROLES)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("hosts:\n  - name: a\n    address: 1.2.3\n", 3, "`1.2.3` is no IP address"),
        ("hosts:\n  - name: a\n    roles: [control,\n      dance]\n", 4, "Invalid enum value 'dance'"),
        ("hosts:\n  - name: a\n    rolls: []\n", 2, "unknown field `rolls`"),
        ("hosts:\n  - name: a\n  - name: b\n    roles: [network]\n", 3, "`127.0.0.1` is already used by host 1"),
        ("hosts:\n  - name: a\n  - name: a\n    address: 10.0.0.2\n", 3, "`a` is already used by host 1"),
        ("name: x\nhosts: []\n", 2, "`hosts` is empty"),
        ("name: x\n", 1, "missing required field `hosts`"),
        ("hosts:\n  - name: a\n    roles: [control, network]\n", 1, "no host has the role `compute`"),
        ("hosts:\n  - name: 7\n", 2, "Expected `str`, got `int`"),
        ("hosts:\n  - {name: a\n", 3, "not YAML"),
        ("vip: nowhere\nhosts:\n  - name: a\n", 1, "`nowhere` is no IP address"),
        ("hosts:\n  - name: a b\n", 2, "`a b` is no host name"),
        ("hosts:\n  - name: a\nengines:\n  database: oracle\n", 4, "Invalid enum value 'oracle'"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ClusterFileError) as caught:
        read(path)
    message = str(caught.value)
    assert words in message
    assert f"cluster.yaml, line {line}:" in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterFileError, match="No such file"):
        read(tmp_path / "none.yaml")
