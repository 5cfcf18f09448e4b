"""The servers that are measured: how to install, start and name each of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection, socket
from time import monotonic, sleep
from typing import Any

from .build import BROADCASTER, BUILD, HERE, BenchError

UPSTREAM = HERE / "peers" / "upstream"
START_LIMIT = 30.0
"""Seconds a server may take to open its port."""
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Debian keeps some servers where an ordinary user's PATH does not lead."""
STOP_LIMIT = 20.0
"""Seconds a server may take to end after SIGTERM before it is killed."""


_EVENTS = dict.fromkeys(("publish", "subscribe"), "user.id !== $name")
RULES: dict[str, dict[str, dict[str, bool | str]]] = {
    "record": {"*": dict.fromkeys(("create", "read", "write", "delete", "listen", "notify"), True)},
    "event": {"*": {"publish": True, "subscribe": True, "listen": True}, "$name": {**_EVENTS}},
    "rpc": {"*": {"provide": True, "request": True}},
    "presence": {"*": {"allow": True}},
}
"""A rule about the user and a path variable for events, as most rules are; everything else is permitted."""


@dataclass(frozen=True)
class Start:
    """What a row wants from the server it starts."""

    port: int
    directory: Path
    """Empty directory for this run."""
    storage: bool = False
    """With the durable store (dsfast: SQLite, durability full); else records live in memory."""
    rules: bool = False
    """With :data:`RULES`; else everything is permitted unasked."""
    protocol: str = ""
    """What dsfast is to speak on the port, if not its binary protocol."""
    tls: bool = False

    def certificate(self) -> tuple[str, str]:
        """Files with a certificate on P-256 and its key.

        Raises:
            BenchError: when openssl cannot make them.
        """
        cert, key = self.directory / "server.crt", self.directory / "server.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        _run(
            [
                "openssl",
                "req",
                "-x509",
                *curve,
                "-subj",
                "/CN=localhost",
                "-keyout",
                str(key),
                "-out",
                str(cert),
            ]
        )
        return str(cert), str(key)

    def rules_file(self) -> Path:
        """Write :data:`RULES`."""
        file = self.directory / "permissions.json"
        file.write_text(json.dumps(RULES))
        return file


class Peer:
    """A kind of server. The subclasses say how to run it."""

    key = ""
    title = ""
    protocol = ""

    def install(self) -> None:
        """Install what is missing, if that can be done.

        Raises:
            BenchError: when it is missing and stays so.
        """

    def command(self, start: Start) -> list[str]:
        """The command line of the server; its process must be the server itself."""
        raise NotImplementedError

    def version(self) -> str:
        """Version for the result file."""
        raise NotImplementedError

    def settings(self) -> str:
        """How it is set up, in a few words, for the result file."""
        return ""


class Dsfast(Peer):
    """The server of this repository, run by the interpreter that runs the bench."""

    key = "dsfast"
    title = "dsfast"
    protocol = "deepstream"

    def __init__(self, stand_in: str | None = None) -> None:
        """`stand_in` is a command that replaces `python -m dsfast serve`, with `{port}` in it."""
        self._stand_in = stand_in

    def command(self, start: Start) -> list[str]:
        if self._stand_in is not None:
            return shlex.split(self._stand_in.replace("{port}", str(start.port)))
        port = start.port
        config: dict[str, Any] = {}
        if start.rules:
            options = {"path": str(start.rules_file())}
            config["permission"] = {"type": "config", "options": options}
        if start.tls:
            cert, key = start.certificate()
            config["httpServer"] = {"options": {"ssl": {"cert": cert, "key": key}}}
        if start.protocol == "mqtt":
            own = {"host": "127.0.0.1", "port": port}
            config["connectionEndpoints"] = [{"type": "mqtt", "options": own}]
            port = free_port()
        command = [sys.executable, "-m", "dsfast", "serve", "--port", str(port), "--log-level", "ERROR"]
        if config:
            file = start.directory / "config.json"
            file.write_text(json.dumps(config))
            command += ["--config", str(file), "--host", "127.0.0.1"]
        return command + (["--data-dir", str(start.directory)] if start.storage else ["--in-memory"])

    def version(self) -> str:
        if self._stand_in is not None:
            return f"stand-in: {self._stand_in}"
        text = _output([sys.executable, "-m", "dsfast", "--version"])
        commit = _output(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"])
        changed = _output(["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no"])
        return f"{text} at {commit}{' with local changes' if changed else ''}"

    def settings(self) -> str:
        return "open login and permission, log level ERROR, in memory unless the row says SQLite"


class Upstream(Peer):
    """deepstream.io's own server on its Node websocket service."""

    key = "upstream"
    title = "upstream (ws)"
    protocol = "deepstream"

    def install(self) -> None:
        for tool in ("node", "npm"):
            if shutil.which(tool) is None:
                raise BenchError(f"{tool} is missing; on Debian: apt-get install nodejs npm")
        if (UPSTREAM / "node_modules" / "@deepstream" / "server").is_dir():
            return
        _install(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], UPSTREAM)

    def command(self, start: Start) -> list[str]:
        rules = str(start.rules_file()) if start.rules else ""
        certificate = start.certificate() if start.tls else ()
        return ["node", str(UPSTREAM / "start.js"), str(start.port), rules, *certificate]

    def version(self) -> str:
        package = json.loads((UPSTREAM / "node_modules/@deepstream/server/package.json").read_text())
        return f"@deepstream/server {package['version']}, node {_output(['node', '--version'])}"

    def settings(self) -> str:
        return "ws mode (Node HTTP service), open login and permission, logging off, memory cache, no storage"


class Nats(Peer):
    """nats-server with its websocket listener."""

    key = "nats"
    title = "NATS ws"
    protocol = "nats"

    def install(self) -> None:
        debian_package("nats-server", "nats-server")

    def command(self, start: Start) -> list[str]:
        config = start.directory / "nats.conf"
        with socket() as other:
            other.bind(("127.0.0.1", 0))
            plain = other.getsockname()[1]
        tls = "no_tls: true"
        if start.tls:
            cert, key = start.certificate()
            tls = f'tls: {{ cert_file: "{cert}", key_file: "{key}" }}'
        config.write_text(
            f"host: 127.0.0.1\nport: {plain}\n"
            f"websocket {{ host: 127.0.0.1, port: {start.port}, {tls}, compression: false }}\n"
        )
        return ["nats-server", "--config", str(config)]

    def version(self) -> str:
        return _output(["nats-server", "--version"])

    def settings(self) -> str:
        return "websocket without compression; publishes of one turn share a frame"


class Redis(Peer):
    """Redis pub/sub over plain TCP."""

    key = "redis"
    title = "Redis"
    protocol = "redis"

    def install(self) -> None:
        debian_package("redis-server", "redis-server")

    def command(self, start: Start) -> list[str]:
        return ["redis-server", "--port", str(start.port), "--bind", "127.0.0.1", "--save", "",
                "--protected-mode", "no", "--dir", str(start.directory), "--maxclients", "15000"]  # fmt: skip

    def version(self) -> str:
        match = re.search(r"v=(\S+)", _output(["redis-server", "--version"]))
        return f"redis-server {match.group(1) if match else '?'}"

    def settings(self) -> str:
        return "pub/sub over TCP (RESP), no persistence, one thread"


class Mosquitto(Peer):
    """mosquitto, for the rows about MQTT."""

    key = "mosquitto"
    title = "mosquitto"
    protocol = "mqtt"

    def install(self) -> None:
        debian_package("mosquitto", "mosquitto")

    def command(self, start: Start) -> list[str]:
        config = start.directory / "mosquitto.conf"
        config.write_text(
            f"listener {start.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "persistence false\nlog_type error\nlog_dest stderr\nmax_connections -1\n"
        )
        return [shutil.which("mosquitto", path=SEARCHED) or "mosquitto", "-c", str(config)]

    def version(self) -> str:
        program = shutil.which("mosquitto", path=SEARCHED) or "mosquitto"
        done = subprocess.run([program, "-h"], capture_output=True, text=True, check=False)
        return (done.stdout.strip().splitlines() or ["mosquitto ?"])[0]

    def settings(self) -> str:
        return "no persistence, anonymous clients, TCP_NODELAY, one thread"


class Broadcaster(Peer):
    """The C program that writes once per connection per tick."""

    key = "broadcaster"
    title = "C broadcaster"
    protocol = "toy"

    def command(self, start: Start) -> list[str]:
        return [str(BROADCASTER), str(start.port)]

    def version(self) -> str:
        return f"{_output(['cc', '--version']).splitlines()[0]} -O3"

    def settings(self) -> str:
        return "knows no protocol: the limit of the machine"


def all_peers(stand_in: str | None) -> dict[str, Peer]:
    """Every peer by its key, dsfast first."""
    peers: list[Peer] = [Dsfast(stand_in), Upstream(), Nats(), Redis(), Mosquitto(), Broadcaster()]
    return {peer.key: peer for peer in peers}


@contextmanager
def running(peer: Peer, start: Start, core: int) -> Iterator[int]:
    """Run a server pinned to a core; gives its process id once the port is open.

    Raises:
        BenchError: when it does not come up, with the end of what it printed.
    """
    log = start.directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *peer.command(start)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=HERE.parent,
        )  # fmt: skip
    try:
        _wait_for_port(process, start.port, peer.title, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(process: subprocess.Popen[bytes], port: int, title: str, log: Path) -> None:
    deadline = monotonic() + START_LIMIT
    while monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{title} ended with code {process.returncode}: {_tail(log)}")
        try:
            create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.02)
        else:
            return
    raise BenchError(f"{title} did not open port {port} within {START_LIMIT:.0f} s: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1000:].strip() or "it printed nothing"


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"{command[0]} failed: {getattr(error, 'stderr', None) or error}") from error


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"
    return done.stdout.strip()


def debian_package(program: str, package: str) -> None:
    """Install a program of Debian's, if it is missing. Raises BenchError if that cannot be done."""
    if shutil.which(program, path=SEARCHED) is not None:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise BenchError(f"{program} is missing; on Debian: apt-get install {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _install(["apt-get", "update"], BUILD, environment)
    _install(["apt-get", "install", "-y", package], BUILD, environment)


def _install(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> None:
    print(f"installing: {' '.join(command)}", file=sys.stderr)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout)[-2000:]}")
