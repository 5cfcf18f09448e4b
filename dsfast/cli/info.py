"""``dsfast info``: versions, for bug reports (configuration.md section 5)."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import click

from dsfast import __version__
from dsfast.cli.options import config_option, lib_dir_option, load_config

__all__ = ["info"]

COMPATIBLE_WITH = "10.1.4"
"""The version of deepstream.io whose protocol and features are the measure."""


@click.command()
@config_option
@lib_dir_option
def info(config_file: Path | None, lib_dir: Path | None) -> None:
    """Print versions and plugins, as JSON."""
    flags = {} if lib_dir is None else {"libDir": os.path.abspath(lib_dir)}
    directory = load_config(config_file, flags).library_directory
    facts: dict[str, object] = {
        "dsfastVersion": __version__,
        "deepstreamVersion": COMPATIBLE_WITH,
        "pythonVersion": platform.python_version(),
        "platform": sys.platform,
        "arch": platform.machine(),
        "plugins": _plugins(),
    }
    if directory is not None:
        facts["libs"] = _packages(directory)
    click.echo(json.dumps(facts, indent=2))


def _plugins() -> list[str]:
    """Plugins that installed packages register."""
    points = metadata.entry_points()
    return sorted(
        f"{group.removeprefix('dsfast.')}/{point.name}: {_version(point.dist)}"
        for group in points.groups
        if group.startswith("dsfast.")
        for point in points.select(group=group)
    )


def _packages(directory: Path) -> list[str]:
    """What lies in a library directory: packages with their versions, and single modules without."""
    packages = {
        f"{package.name}:{package.version}" for package in metadata.distributions(path=[str(directory)])
    }
    modules = {f"{path.stem}:" for path in directory.glob("dsfast_*.py")}
    return sorted(packages | modules)


def _version(package: metadata.Distribution | None) -> str:
    return "?" if package is None else f"{package.name} {package.version}"
