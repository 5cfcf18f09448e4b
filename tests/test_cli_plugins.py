"""`dsfast plugins`: what is installed, and whether it can be used."""

import json

import pytest

from dsfast import __version__
from tests.commands import ROOT, run

CACHE = """
from dsfast import Cache

class Mine(Cache):
    description = "mine"
    async def get(self, name): return -1, None
    async def set(self, name, version, data): pass
    async def delete(self, name): pass
"""


@pytest.fixture
def site(tmp_path):
    """A directory for PYTHONPATH in which a package with plugins is installed."""
    site = tmp_path / "site"
    info = site / "shiny_plugins-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny-plugins\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text(
        "[dsfast.cache]\nshiny = shiny:Mine\nbroken = shiny:Missing\n"
        "[dsfast.cluster_node]\nhalf = shiny:Mine\n"
    )
    (site / "shiny.py").write_text(CACHE)
    return site


def listed(*arguments, **others):
    done = run("plugins", "--json", *arguments, **others)
    return done, json.loads(done.stdout)


def test_what_is_built_in_and_what_a_package_brings(site, tmp_path):
    done, found = listed(cwd=tmp_path, PYTHONPATH=f"{site}:{ROOT}")
    assert done.returncode == 0 and done.stderr == ""
    assert {
        "kind": "cache",
        "name": "shiny",
        "source": "shiny:Mine",
        "package": "shiny-plugins",
        "version": "1.2.3",
        "problem": "",
    } in found
    built_in = {(entry["kind"], entry["name"]) for entry in found if entry["source"] == "built in"}
    assert built_in >= {("cache", "default"), ("locks", "default"), ("connection", "ws-binary")}
    assert {entry["version"] for entry in found if entry["source"] == "built in"} == {__version__}
    table = run("plugins", "--kind", "cache", cwd=tmp_path, PYTHONPATH=f"{site}:{ROOT}").stdout.splitlines()
    assert table[0].split() == ["KIND", "NAME", "SOURCE", "PACKAGE"]
    assert ["cache", "shiny", "shiny:Mine", "shiny-plugins", "1.2.3"] in [line.split() for line in table]


def test_the_library_directory_and_the_configuration(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "dsfast_cache_own.py").write_text(CACHE)
    (tmp_path / "lib" / "dsfast_cluster_states_own.py").write_text("")
    (tmp_path / "mine.py").write_text(CACHE)
    (tmp_path / "config.yml").write_text(
        "libDir: lib\nstorage: {path: ../mine.py:Mine}\nplugins: {a: {path: no.such}}\n"
    )
    _, found = listed("-c", "config.yml", cwd=tmp_path)
    own = {(e["kind"], e["name"], e["source"]) for e in found if e["source"] != "built in"}
    assert own >= {
        ("cache", "own", f"{tmp_path}/lib/dsfast_cache_own.py"),
        ("cluster_states", "own", f"{tmp_path}/lib/dsfast_cluster_states_own.py"),
        ("storage", "", "../mine.py:Mine"),
        ("plugin", "", "no.such"),
    }


def test_what_cannot_be_used_is_told(site, tmp_path):
    done, found = listed("--load", cwd=tmp_path, PYTHONPATH=f"{site}:{ROOT}")
    problems = {entry["name"]: entry["problem"] for entry in found if entry["package"] == "shiny-plugins"}
    assert done.returncode == 1
    assert problems.pop("shiny") == ""
    assert problems == {
        "broken": "Error loading cache plugin broken (shiny:Missing): "
        "module 'shiny' has no attribute 'Missing'",
        "half": "it needs to implement send, send_direct, subscribe",
    }
    assert done.stderr.startswith("dsfast: 2 of ")
    done = run("plugins", "--load", "--kind", "cluster_node", cwd=tmp_path, PYTHONPATH=f"{site}:{ROOT}")
    assert "    it needs to implement send, send_direct, subscribe" in done.stdout.splitlines()


def test_an_unknown_kind(tmp_path):
    done = run("plugins", "--kind", "cash", cwd=tmp_path)
    assert done.returncode == 2
    assert "there are no plugins of the kind cash, only of authentication, cache" in done.stderr
