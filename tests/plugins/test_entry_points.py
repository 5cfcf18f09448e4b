"""What pyproject.toml offers by name is there, fulfils its contract, and says what it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from dsfast.config import load
from dsfast.services.factory import KINDS, missing_methods
from dsfast.services.plugin_loader import class_by_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLUGINS = [
    (group.removeprefix("dsfast."), name, target)
    for group, entries in PROJECT["entry-points"].items()
    for name, target in entries.items()
]
IMPORTED = {"hazelcast-python-client": "hazelcast", "opentelemetry-proto": "opentelemetry.proto"}
"""What is imported of the packages whose modules have another name."""


@pytest.mark.parametrize(("kind", "name", "target"), PLUGINS)
def test_entry_points_lead_to_plugins(kind, name, target):
    module, _, attribute = target.partition(":")
    plugin = getattr(import_module(module), attribute)
    assert issubclass(plugin, KINDS[kind])
    assert missing_methods(KINDS[kind], plugin) == []


def test_a_configuration_finds_them_by_name(tmp_path, monkeypatch):
    """As after ``pip install``, whose entry points are a file beside the package."""
    info = tmp_path / "dsfast_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dsfast-test\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in PROJECT["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    for kind, name, target in PLUGINS:
        found = class_by_name(kind, KINDS[kind], name.upper(), load())
        assert f"{found.__module__}:{found.__name__}".startswith(target.partition(":")[0])


@pytest.mark.parametrize(("kind", "name", "target"), PLUGINS)
def test_a_missing_extra_is_named(kind, name, target):
    """The module is imported where none of the packages of the extra can be."""
    module = target.partition(":")[0]
    extra = module.removeprefix("dsfast_plugins.")
    packages = [text.partition(">")[0] for text in PROJECT["optional-dependencies"].get(extra, [])]
    blocked = "; ".join(f"sys.modules[{IMPORTED.get(name, name)!r}] = None" for name in packages)
    code = f"import sys; {blocked or 'pass'}; import {module}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
    )
    if packages:
        assert f"needs: pip install dsfast[{extra}]" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
