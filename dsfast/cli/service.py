"""``dsfast service``: the server as a service of the system (configuration.md section 5)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from dsfast.cli.options import end_with

__all__ = ["service"]

SYSTEMD_UNITS = Path("/etc/systemd/system")
INIT_SCRIPTS = Path("/etc/init.d")
PID_DIRECTORY = Path("/var/run/dsfast")

# The name becomes part of paths and of a shell script.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

ACTIONS = ("add", "remove", "start", "stop", "restart", "status")


class _Action(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__(ACTIONS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in ACTIONS:
            names = ", ".join(f'"{action}"' for action in ACTIONS[:-1])
            self.fail(f'Unknown action for service, please {names} or "{ACTIONS[-1]}"', param, ctx)
        return super().convert(value, param, ctx)


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter("use letters, digits, dots, dashes and underscores, at most 64 of them")
    return value


def _path(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and _CONTROL.search(str(value)):
        raise click.BadParameter("control characters are not possible here")
    return None if value is None else Path(os.path.abspath(value))


@click.command()
@click.argument("action", type=_Action(), metavar=f"[{'|'.join(ACTIONS)}]")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_path,
    help="Configuration file of the service.",
)
@click.option(
    "-n", "--service-name", "name", default="dsfast", show_default=True, callback=_name, help="Name."
)
@click.option(
    "-l",
    "--log-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_path,
    help="Directory of <name>-out.log and <name>-err.log.",
)
@click.option(
    "-p",
    "--pid-directory",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_path,
    default=PID_DIRECTORY,
    show_default=True,
    help="Directory of the pid file (init.d only).",
)
@click.option(
    "--user", default="root", show_default=True, callback=_name, help="User that the server runs as."
)
@click.option("--dry-run", is_flag=True, help="Print the file that `add` would write.")
def service(
    *,
    action: str,
    config_file: Path | None,
    name: str,
    log_dir: Path | None,
    pid_directory: Path,
    user: str,
    dry_run: bool,
) -> None:
    """Install or control a service of the system.

    `add` writes a unit of systemd, or a script for init.d, that runs `dsfast daemon` with the configuration;
    it needs --config and --log-dir. The other actions are those of the system.
    """
    kind = _kind()
    if action == "add":
        if config_file is None or log_dir is None:
            end_with("Please provide the config and log directory when adding a service")
        command = [sys.executable, "-m", "dsfast", "daemon", "--config", str(config_file)]
        if kind == "systemd":
            content = _unit(name, command, log_dir, user)
        else:
            content = _script(name, command, log_dir, pid_directory, user)
        _add(kind, name, content, log_dir, dry_run)
    elif action == "remove":
        _remove(kind, name, dry_run)
    elif dry_run:
        click.echo(shlex.join(_control(kind, name, action)))
    else:
        raise click.exceptions.Exit(_run(_control(kind, name, action)))


def _kind() -> str:
    if Path("/usr/lib/systemd/system").is_dir() or Path("/bin/systemctl").exists():
        return "systemd"
    if not INIT_SCRIPTS.is_dir():
        end_with("Only systemd and init.d services are currently supported.")
    return "init.d"


def _file(kind: str, name: str) -> Path:
    return SYSTEMD_UNITS / f"{name}.service" if kind == "systemd" else INIT_SCRIPTS / name


def _add(kind: str, name: str, content: str, log_dir: Path, dry_run: bool) -> None:
    if dry_run:
        click.echo(content, nl=False)
        return
    file = _file(kind, name)
    click.echo(f"Installing service on: {file}")
    with _errors():
        if file.exists():
            end_with("Service already exists, please uninstall first")
        log_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        if kind == "systemd":
            _reload_systemd()
            click.echo("SystemD service registered successfully")
        else:
            file.chmod(0o755)
            click.echo("init.d service registered successfully")


def _remove(kind: str, name: str, dry_run: bool) -> None:
    file = _file(kind, name)
    click.echo(f"Removing service on: {file}")
    if not file.exists():
        end_with("Service doesn't exists, nothing to uninstall")
    if dry_run:
        return
    if kind == "systemd":
        _run(["systemctl", "disable", "--now", name])
    with _errors():
        file.unlink()
    if kind == "systemd":
        _reload_systemd()
    click.echo(f"{'SystemD' if kind == 'systemd' else 'init.d'} service removed successfully")


def _control(kind: str, name: str, action: str) -> list[str]:
    return ["systemctl", action, name] if kind == "systemd" else [str(_file(kind, name)), action]


def _reload_systemd() -> None:
    if _run(["systemctl", "daemon-reload"]):
        end_with("systemctl daemon-reload failed, systemd may not know about the change yet")


def _run(command: Sequence[str]) -> int:
    with _errors():
        return subprocess.run(command, check=False).returncode


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What the system refuses becomes one line and exit code 1."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def _unit(name: str, command: Sequence[str], log_dir: Path, user: str) -> str:
    """A systemd unit. In the log paths, which cannot be quoted, only % means something."""
    logs = str(log_dir).replace("%", "%%")
    return f"""\
[Unit]
Description={name}
After=network.target

[Service]
Type=simple
StandardOutput=append:{logs}/{name}-out.log
StandardError=append:{logs}/{name}-err.log
ExecStart={" ".join(map(_unit_word, command))}
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
LimitNOFILE=1048576
Restart=always
User={user}
Group={user}

[Install]
WantedBy=multi-user.target
"""


def _unit_word(word: str) -> str:
    """A word of a command line in a unit: quoted, with nothing left that systemd would replace."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _script(name: str, command: Sequence[str], log_dir: Path, pid_directory: Path, user: str) -> str:
    """A script for init.d."""
    quoted = {
        "command": shlex.join(command),
        "user": shlex.quote(user),
        "out": shlex.quote(f"{log_dir}/{name}-out.log"),
        "err": shlex.quote(f"{log_dir}/{name}-err.log"),
        "pids": shlex.quote(str(pid_directory)),
        "pid": shlex.quote(f"{pid_directory}/{name}.pid"),
    }
    return _SCRIPT.format(name=name, **quoted)


_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $network $remote_fs
# Required-Stop:     $network $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: {name}
### END INIT INFO

pid_file={pid}

running() {{
    [ -s "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null
}}

start() {{
    if running; then
        echo "{name} is running already"
        return 0
    fi
    mkdir -p {pids}
    if [ "$(id -un)" = {user} ]; then
        {command} >>{out} 2>>{err} </dev/null &
    else
        setpriv --reuid={user} --regid={user} --init-groups {command} >>{out} 2>>{err} </dev/null &
    fi
    echo $! >"$pid_file"
    echo "{name} started"
}}

stop() {{
    if ! running; then
        echo "{name} is not running"
        return 0
    fi
    kill -TERM "$(cat "$pid_file")"
    waited=0
    while running && [ "$waited" -lt 60 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    if running; then
        echo "{name} does not stop"
        return 1
    fi
    rm -f "$pid_file"
    echo "{name} stopped"
}}

case "$1" in
    start) start ;;
    stop) stop ;;
    restart) stop && start ;;
    reload) running && kill -HUP "$(cat "$pid_file")" ;;
    status)
        if running; then
            echo "{name} is running"
        else
            echo "{name} is not running"
            exit 3
        fi
        ;;
    *)
        echo "Usage: $0 {{start|stop|restart|reload|status}}"
        exit 2
        ;;
esac
"""
