"""``dsfast config``: what the configuration means, and what one may contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsfast.cli.options import load_config, server_options

if TYPE_CHECKING:
    from dsfast.config import Source

__all__ = ["config"]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@click.group()
def config() -> None:
    """Show the configuration, and what there is to configure."""


@config.command()
@server_options(terminal=False)
@click.option("--json", "as_json", is_flag=True, help="JSON, without where the values come from.")
def show(config_file: Path | None, flags: dict[str, Any], as_json: bool) -> None:
    """Print the values that are in effect.

    Those are the values that a server started so would have, the defaults included. Each value that was given
    has a comment that says where. Passwords, keys and the like are hidden.
    """
    from dsfast.config.effective import effective  # noqa: PLC0415 - not needed for --help

    loaded = load_config(config_file, flags)
    values = effective(loaded, mask=True)
    if as_json:
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    for line in _mapping(values, "", "", loaded.source):
        click.echo(line)


@config.command()
def docs() -> None:
    """Print the reference of all options."""
    from dsfast.config.document import render  # noqa: PLC0415 - not needed for --help

    click.echo(render(), nl=False)


@config.command()
def schema() -> None:
    """Print a JSON Schema, for editors."""
    from dsfast.config.json_schema import json_schema  # noqa: PLC0415 - not needed for --help

    click.echo(json.dumps(json_schema(), indent=2))


def _mapping(values: dict[str, Any], pointer: str, indent: str, source: Source) -> Iterator[str]:
    for key, value in values.items():
        shown = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)
        inner = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        yield from _entry(f"{indent}{shown}:", value, inner, indent, source)


def _entry(start: str, value: Any, pointer: str, indent: str, source: Source) -> Iterator[str]:
    """A key or the dash of a list, with its value behind it or in the lines below."""
    if isinstance(value, dict) and value:
        yield start
        yield from _mapping(value, pointer, f"{indent}  ", source)
    elif isinstance(value, list) and value:
        yield start
        for index, entry in enumerate(value):
            yield from _entry(f"{indent}  -", entry, f"{pointer}/{index}", f"{indent}  ", source)
    else:
        # JSON is YAML.
        line = f"{start} {json.dumps(value, ensure_ascii=False)}"
        place = source.places.get(pointer)
        yield f"{line}  # {place}" if place else line
