"""Which accelerator machines run on: asked once per boot, or said."""

import json
from pathlib import Path

import pytest

from trilith.drivers import kvm


def test_what_is_said_is_taken(tmp_path: Path) -> None:
    assert kvm.accelerator("kvm", tmp_path) == "kvm"
    assert kvm.accelerator("tcg", tmp_path) == "tcg"
    with pytest.raises(ValueError, match="auto, kvm or tcg"):
        kvm.accelerator("xen", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_probe_is_asked_once_per_boot(tmp_path: Path) -> None:
    first = kvm.verdict(tmp_path)
    assert isinstance(first["usable"], bool)
    assert first["reason"]
    kept = {**first, "usable": True, "reason": "kept"}
    (tmp_path / "kvm.json").write_text(json.dumps(kept))
    assert kvm.accelerator("auto", tmp_path) == "kvm"
    (tmp_path / "kvm.json").write_text(json.dumps({**kept, "boot_id": "another boot"}))
    assert kvm.verdict(tmp_path) == {**first, "reason": kvm.verdict(tmp_path)["reason"]}


def test_a_cache_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "kvm.json").write_text('{"boot_id')
    assert "usable" in kvm.verdict(tmp_path)
