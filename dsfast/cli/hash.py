"""``dsfast hash``: what to store for a password (connection-and-auth.md section 6)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsfast.cli.options import config_option, end_with, load_config

if TYPE_CHECKING:
    from dsfast.services.authentication.passwords import Passwords

__all__ = ["hash_"]


@click.command("hash")
@click.argument("password", required=False)
@click.option("--argon2", is_flag=True, help="Use argon2id, whatever the configuration says.")
@config_option
def hash_(password: str | None, argon2: bool, config_file: Path | None) -> None:
    """Print what to store for a password.

    It belongs into a users file. Without PASSWORD it is asked for on a terminal; `-` reads it from standard
    input. Either keeps it out of the history of the shell and out of the list of processes. The way of
    hashing is that of the first authentication of type file in the configuration.
    """
    from dsfast.plugin import PluginError  # noqa: PLC0415 - not needed for --help
    from dsfast.services.authentication.passwords import Argon2id  # noqa: PLC0415

    try:
        scheme = Argon2id() if argon2 else _configured(config_file)
    except PluginError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Password hash: {scheme.hash(_password(password))}")


def _configured(config_file: Path | None) -> Passwords:
    from dsfast.config.schema import FileAuthSection  # noqa: PLC0415 - not needed for --help
    from dsfast.services.authentication.passwords import Passwords  # noqa: PLC0415

    entries = [entry.options for entry in load_config(config_file).auth if isinstance(entry, FileAuthSection)]
    if not entries:
        end_with("Error: Can only use hash with file authentication as auth type")
    options = entries[0]
    if options.hash is None:
        end_with("Error: Can only use hash with file authentication")
    return Passwords(options.hash, options.iterations, options.key_length)


def _password(given: str | None) -> str:
    if given is None and sys.stdin is not None and sys.stdin.isatty():
        given = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    elif given == "-":
        given = sys.stdin.readline().removesuffix("\n")
    if not given:
        end_with("Error: Must provide password to hash")
    return given
