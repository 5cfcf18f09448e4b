"""``dsfast init``: a directory with a commented configuration to start from."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import click

__all__ = ["init"]

FIRST_USER = "admin"

HASH: dict[str, Any] = {"hash": "sha512", "iterations": 210_000, "keyLength": 64}
ACTIVE: dict[str, Any] = {
    "logLevel": "info",
    "httpServer": {"options": {"host": "127.0.0.1", "port": 6020}},
    "auth": [{"type": "file", "options": {"users": "fileLoad(users.yml)", **HASH}}],
    "permission": {"type": "config", "options": {"permissions": "fileLoad(permissions.yml)"}},
}
"""What is in force in the file that is written; everything else is a comment."""

PERMISSIONS = """\
# Who may do what. Each section maps names, where * is anything and $name a part that the rule can use, to
# rules per action. A rule is true, false or an expression; the most specific name that matches decides, and
# what no rule matches is refused. Check with: dsfast valve check FILE
#
# In a rule: user.id, user.isAuthenticated, user.data (serverData of the login), data, oldData, now, action,
# and _('record/' + $name) for the data of another record.

presence:
  "*":
    allow: user.isAuthenticated

record:
  "*":
    create: user.isAuthenticated
    read: user.isAuthenticated
    write: user.isAuthenticated
    delete: user.isAuthenticated
    listen: user.isAuthenticated
    notify: user.isAuthenticated
  # Only the owner of a profile changes it.
  "profile/$owner":
    create: user.id === $owner
    write: user.id === $owner
    delete: user.id === $owner
    read: user.isAuthenticated

event:
  "*":
    publish: user.isAuthenticated
    subscribe: user.isAuthenticated
    listen: user.isAuthenticated

rpc:
  "*":
    provide: user.isAuthenticated
    request: user.isAuthenticated
"""

USERS = """\
# Users of the authentication "file". `dsfast hash` makes a password; changes count after a restart.
#   serverData  known to permission rules as user.data
#   clientData  sent to the client when it logs in

{name}:
  password: "{stored}"
  serverData:
    role: admin
"""


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def init(directory: Path, force: bool) -> None:
    """Write a commented configuration to start from.

    The files are config.yml, permissions.yml and users.yml in DIRECTORY/conf. There is one user, whose
    password is made now and shown once. `dsfast serve` finds it when it is started in DIRECTORY.
    """
    from dsfast.config.sample import sample  # noqa: PLC0415 - not needed for --help
    from dsfast.services.authentication.passwords import Pbkdf2  # noqa: PLC0415

    password = secrets.token_urlsafe(12)
    stored = Pbkdf2(HASH["hash"], HASH["iterations"], HASH["keyLength"]).hash(password)
    conf = directory / "conf"
    files = {
        conf / "config.yml": sample(ACTIVE),
        conf / "permissions.yml": PERMISSIONS,
        conf / "users.yml": USERS.format(name=FIRST_USER, stored=stored),
    }
    present = [str(file) for file in files if file.exists()]
    if present and not force:
        raise click.ClickException(f"{', '.join(present)} exists already (replace with --force)")
    try:
        conf.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            _write(file, text)
            click.echo(file)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    click.echo(
        f"\nuser: {FIRST_USER}\npassword: {password}\n\nStart with: dsfast serve -c {conf / 'config.yml'}"
    )


def _write(file: Path, text: str) -> None:
    """Only the owner may read these: they hold passwords, though hashed."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
