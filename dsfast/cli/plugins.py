"""``dsfast plugins``: what can be named in a configuration (plugins.md A.4)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsfast import __version__
from dsfast.cli.options import config_option, lib_dir_option, load_config

if TYPE_CHECKING:
    from dsfast.config import Config

__all__ = ["plugins"]


@dataclass(frozen=True, slots=True, order=True)
class _Found:
    kind: str
    name: str
    source: str
    """Class or file, for a built-in one ``built in``."""
    package: str
    version: str
    problem: str = ""


@click.command()
@config_option
@lib_dir_option
@click.option("--kind", help="Only those of this kind, for example cache.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--load", "load_all", is_flag=True, help="Load each of them, and fail if one cannot be used.")
def plugins(
    config_file: Path | None, lib_dir: Path | None, kind: str | None, as_json: bool, load_all: bool
) -> None:
    """List the plugins that are installed, with kind, source and version.

    Those are the built-in ones, those of installed packages, modules in the library directory, and what the
    configuration itself names by a path. Kinds are called as in the entry points of packages.
    """
    flags = {} if lib_dir is None else {"libDir": os.path.abspath(lib_dir)}
    config = load_config(config_file, flags)
    found = sorted(set(_found(config, load_all)))
    if kind is not None:
        kinds = sorted({plugin.kind for plugin in found})
        found = [plugin for plugin in found if plugin.kind == kind]
        if not found:
            raise click.UsageError(f"there are no plugins of the kind {kind}, only of {', '.join(kinds)}")
    if as_json:
        click.echo(json.dumps([asdict(plugin) for plugin in found], indent=2))
    else:
        _print(found)
    if broken := [plugin for plugin in found if plugin.problem]:
        raise click.ClickException(f"{len(broken)} of {len(found)} plugins cannot be used")


def _found(config: Config, load_all: bool) -> Iterator[_Found]:
    from dsfast.services.factory import KINDS, built_in  # noqa: PLC0415 - help has to be fast
    from dsfast.services.plugin_loader import entry_point_group  # noqa: PLC0415

    kinds = {entry_point_group(kind).removeprefix("dsfast."): kind for kind in KINDS}
    short = {kind: name for name, kind in kinds.items()}
    for kind, name in built_in():
        yield _Found(short[kind], name, "built in", "dsfast", __version__)
    for name, kind in kinds.items():
        for point in metadata.entry_points(group=f"dsfast.{name}"):
            package, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
            problem = _problem(kind, {"name": point.name}, config) if load_all else ""
            yield _Found(name, point.name, point.value, package, version, problem)
    if config.library_directory is not None:
        yield from _of_library(config.library_directory, kinds, config, load_all)
    for kind, path in _named_by_path(config):
        problem = _problem(kind, {"path": path}, config) if load_all else ""
        yield _Found(short[kind], "", path, "", "", problem)


def _of_library(directory: Path, kinds: dict[str, str], config: Config, load_all: bool) -> Iterator[_Found]:
    for path in sorted([*directory.glob("dsfast_*.py"), *directory.glob("dsfast_*/__init__.py")]):
        module = path.parent.name if path.name == "__init__.py" else path.stem
        # The longest kind that fits: cluster_node, not a plugin called node_… of a kind "cluster".
        for name in sorted(kinds, key=len, reverse=True):
            prefix = f"dsfast_{name}_"
            if module.startswith(prefix):
                plugin = module.removeprefix(prefix)
                problem = _problem(kinds[name], {"name": plugin}, config) if load_all else ""
                yield _Found(name, plugin, str(path), "", "", problem)
                break


def _named_by_path(config: Config) -> Iterator[tuple[str, str]]:
    """Kind and path of what the configuration names by a path."""
    from dsfast.config.schema import PluginSection  # noqa: PLC0415 - help has to be fast

    sections = [
        *(("monitoring", section) for section in config.monitoring),
        *(("authentication", section) for section in config.auth),
        *(("connection_endpoint", section) for section in config.connection_endpoints),
        *(("plugin", section) for section in config.plugins.values()),
        ("http_service", config.http_server),
        *(
            (kind, getattr(config, kind))
            for kind in (
                *("logger", "cache", "storage", "permission", "telemetry", "subscriptions", "locks"),
                *("cluster_node", "cluster_registry", "cluster_states"),
            )
        ),
    ]
    for kind, section in sections:
        if isinstance(section, PluginSection) and section.path is not None:
            yield kind, section.path


def _problem(kind: str, place: dict[str, str], config: Config) -> str:
    """Why a plugin cannot be used; empty if it can."""
    from dsfast.services.factory import KINDS, ContractError, missing_methods  # noqa: PLC0415
    from dsfast.services.plugin_loader import class_by_name, class_by_path  # noqa: PLC0415

    try:
        if "path" in place:
            plugin_class = class_by_path(kind, KINDS[kind], place["path"], config)
        else:
            plugin_class = class_by_name(kind, KINDS[kind], place["name"], config)
    except ContractError as error:
        return str(error)
    missing = missing_methods(KINDS[kind], plugin_class)
    return f"it needs to implement {', '.join(missing)}" if missing else ""


def _print(found: list[_Found]) -> None:
    rows = [("KIND", "NAME", "SOURCE", "PACKAGE")] + [
        (plugin.kind, plugin.name or "-", plugin.source, f"{plugin.package} {plugin.version}".strip() or "-")
        for plugin in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row, problem in zip(rows, ["", *(plugin.problem for plugin in found)], strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(f"{line}\n    {problem}" if problem else line)
