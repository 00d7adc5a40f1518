"""What a host says of itself."""

from pathlib import Path

from trilith.agent.inventory import cpu_info, inventory, versions

PROCESSOR = "vendor_id\t: GenuineIntel\nmodel name\t: A Processor\nphysical id\t: {}\nsiblings\t: 4\ncpu cores\t: 2\n"


def test_processors() -> None:
    text = "\n".join(PROCESSOR.format(n // 4) + "flags\t\t: vme fpu\n" for n in range(8))
    found = cpu_info(text)
    assert (found["vendor"], found["model"], found["features"]) == ("GenuineIntel", "A Processor", ["fpu", "vme"])
    assert found["topology"] == {"sockets": 2, "cores": 2, "threads": 2}
    assert cpu_info("processor\t: 0\n")["topology"] == {"sockets": 1, "cores": 1, "threads": 1}


def test_this_host(tmp_path: Path) -> None:
    has = inventory(tmp_path)
    assert has["vcpus"] >= 1
    assert has["ram_mib"] > 0
    assert has["cpu_info"]["arch"]
    assert versions(engines=False).keys() == {"python", "linux"}
    assert versions(engines=True)["qemu"].split(".")[0].isdigit()
