"""The guides of docs/plugins: their examples are the tested files, and what they name is there."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsfast import plugin as contract
from dsfast.config import load, pending
from dsfast.services.factory import KINDS, missing_methods
from dsfast.services.plugin_loader import class_by_path, entry_point_group

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import guides  # noqa: E402

PAGES = sorted(guides.GUIDES.glob("*.md"))
OF_KINDS = {
    "logger": "logger",
    "monitoring": "monitoring",
    "storage": "storage",
    "cache": "cache",
    "authentication": "authentication",
    "permission": "permission",
    "connection_endpoint": "connection-endpoint",
    "subscriptions": "subscription-registry",
    "locks": "locks",
    "cluster_node": "cluster-node",
    "cluster_registry": "cluster-registry",
    "cluster_states": "state-registry",
    "http_service": "http-service",
    "telemetry": "telemetry",
    "plugin": "custom",
}
"""The page of each kind of plugin."""


def test_there_is_a_page_for_each_kind() -> None:
    assert set(OF_KINDS) == set(KINDS)
    pages = {path.stem for path in PAGES}
    assert pages == {*OF_KINDS.values(), "README"}
    overview = (guides.GUIDES / "README.md").read_text()
    assert [page for page in OF_KINDS.values() if f"({page}.md)" not in overview] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_examples_are_the_tested_files(path: Path) -> None:
    assert path.read_text() == guides.rendered(path.read_text()), "run: python tools/guides.py"


def test_every_example_is_shown_somewhere() -> None:
    shown = {name for path in PAGES for name in guides.examples(path.read_text())}
    there = {f"examples/{path.name}" for path in (guides.GUIDES / "examples").glob("*.py")}
    assert shown == there


def test_what_is_not_there_yet_is_said() -> None:
    text = (guides.GUIDES / "cluster-node.md").read_text()
    assert ("**Not yet:**" in text) == ("/clusterNode/plugin" in pending.REFUSED)


@pytest.mark.parametrize(("kind", "page"), OF_KINDS.items())
def test_a_page_tells_everything(kind: str, page: str) -> None:
    """Each has an example with its test, three ways to configure it, and every method of the contract."""
    text = (guides.GUIDES / f"{page}.md").read_text()
    names = guides.examples(text)
    assert [name for name in names if name.startswith("examples/my_")]
    assert [name for name in names if name.startswith("examples/test_my_")]
    assert f'[project.entry-points."{entry_point_group(kind)}"]' in text
    assert "path: ./my_" in text
    assert "register_plugin(" in text
    base = KINDS[kind]
    methods = set(getattr(base, "__abstractmethods__", ()))
    assert sorted(method for method in methods if f"`{method}" not in text) == []


def configurations(page: str) -> list[dict[str, Any]]:
    """The configurations that a page shows."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


@pytest.fixture
def _nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were there: the pages say themselves what is not."""
    monkeypatch.setattr(pending, "REFUSED", {})


@pytest.mark.usefixtures("_nothing_is_missing")
@pytest.mark.parametrize(("kind", "page"), OF_KINDS.items())
def test_the_configuration_by_path_leads_to_the_example(kind: str, page: str) -> None:
    text = (guides.GUIDES / f"{page}.md").read_text()
    shown = [config for config in configurations(text) if "path: ./my_" in yaml.safe_dump(config)]
    assert shown
    for given in shown:
        config = load({**given, "libDir": str(guides.GUIDES / "examples")})
        found: Any = config[next(iter(given))]
        if isinstance(found, list | dict) and not hasattr(found, "path"):
            (found,) = found.values() if isinstance(found, dict) else found
        plugin_class = class_by_path(kind, KINDS[kind], found.path, config)
        assert issubclass(plugin_class, KINDS[kind])
        assert missing_methods(KINDS[kind], plugin_class) == []
        assert f':{plugin_class.__name__}"' in text, "the entry point names another class"


@pytest.mark.usefixtures("_nothing_is_missing")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_configurations_are_valid(path: Path) -> None:
    for given in configurations(path.read_text()):
        load(given)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_official_plugins_are_documented() -> None:
    """Whatever can be named in a configuration has its name on the page of its kind."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    kinds = {entry_point_group(kind): page for kind, page in OF_KINDS.items()}
    for group, plugins in entries.items():
        text = (guides.GUIDES / f"{kinds[group]}.md").read_text()
        assert [name for name in plugins if f"`{name}`" not in text and f"## {name}" not in text
                and f"name: {name}" not in text] == [], group  # fmt: skip


def test_the_contract_is_what_the_pages_import() -> None:
    for path in (guides.GUIDES / "examples").glob("my_*.py"):
        for names in re.findall(r"^from dsfast\.plugin import (.*)$", path.read_text(), re.MULTILINE):
            assert set(names.split(", ")) <= set(contract.__all__), path.name
