"""Processes of the servers that the connectors are tested against."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

PATIENCE = 60.0
"""Seconds that a server may take to start or to end."""


def program(*names: str) -> str:
    """The path of the first program that exists; otherwise the test is skipped, in CI it fails."""
    # Debian keeps some of them where PATH does not lead.
    postgres = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for name in names:
        found = shutil.which(name, path=":".join([os.environ["PATH"], "/usr/sbin", *postgres]))
        if found:
            return found
    text = f"{names[0]} is not installed (tools/system-packages python3 servers)"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds that another process decides on."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0.01)


class Process:
    """A server process.

    It is ready when a line of its output contains ``ready``, or, if that is empty, when it listens.
    """

    port: int

    def __init__(self, command: list[str], ready: str, directory: Path, *, user: str | None = None) -> None:
        self.command = command
        self.ready = ready
        self.directory = directory
        self.user = user
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it is ready."""
        self.lines: list[str] = []
        self._is_ready = threading.Event()
        self._process = subprocess.Popen(
            self.command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=self.user,
            group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
            extra_groups=[] if self.user else None,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self.ready:
            self._wait_for_port()
        if not self._is_ready.wait(PATIENCE) or self.returncode is not None:
            self.kill()
            raise RuntimeError(f"{self.command[0]} did not start:\n" + "\n".join(self.lines[-20:]))

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                self._is_ready.set()
            time.sleep(0.005)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if self.ready and self.ready in line:
                self._is_ready.set()
        self._is_ready.set()  # it has ended; whoever waits is to see that

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (kill -9)."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def kill_all(self) -> None:
        """End it and the processes that it has started at once."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        self.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it in order."""
        if self.returncode is None:
            self.send(number)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(PATIENCE)


class RedisProcess(Process):
    """A redis-server (or sentinel) on a free port that keeps nothing on disk."""

    def __init__(
        self, directory: Path, *settings: str, port: int | None = None, sentinel: bool = False
    ) -> None:
        self.port = port or free_port()
        directory.mkdir(exist_ok=True)
        self.socket = directory / f"{self.port}.sock"
        command = [program("redis-server")]
        if sentinel:
            file = directory / f"sentinel-{self.port}.conf"
            file.write_text(f"port {self.port}\nbind 127.0.0.1\n" + "\n".join(settings) + "\n")
            super().__init__([*command, str(file), "--sentinel"], "+monitor", directory)
            return
        command += [
            "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", "",
            "--appendonly", "no", "--dir", str(directory), *settings,
        ]  # fmt: skip
        super().__init__(command, "Ready to accept connections", directory)


def account() -> str | None:
    """Whom to run a server as that refuses to be root."""
    return "nobody" if os.geteuid() == 0 else None


def private_directory(name: str) -> Path:
    """A new directory that :func:`account` may use; pytest's own are for their owner only."""
    directory = Path(tempfile.mkdtemp(prefix=f"dsfast-{name}-"))
    user = account()
    if user:
        shutil.chown(directory, user, grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name)
    return directory


def private_copies(files: Iterable[Path], directory: Path) -> list[str]:
    """Copies of files that only :func:`account` can read."""
    copies = []
    for source in files:
        copies.append(shutil.copy(source, directory))
        os.chmod(copies[-1], 0o600)
        if user := account():
            shutil.chown(copies[-1], user)
    return copies


class PostgresProcess(Process):
    """A PostgreSQL server on a free port; user ``postgres``, no passwords."""

    def __init__(self, *settings: str, certificate: tuple[Path, Path] | None = None) -> None:
        self.port = free_port()
        self.home = private_directory("postgres")
        user = account()
        data = self.home / "data"
        command = [
            program("initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        group = None if user is None else pwd.getpwnam(user).pw_gid
        subprocess.run(
            [*command, "--no-sync", "--no-instructions"],
            check=True, capture_output=True, cwd=self.home,
            user=user, group=group, extra_groups=[] if user else None,
        )  # fmt: skip
        command = [
            program("postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.home),
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60",
        ]  # fmt: skip
        if certificate is not None:
            cert, key = private_copies(certificate, self.home)
            command += ["-c", "ssl=on", "-c", f"ssl_cert_file={cert}", "-c", f"ssl_key_file={key}"]
        for setting in settings:
            command += ["-c", setting]
        super().__init__(command, "ready to accept connections", self.home, user=user)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it without waiting for clients."""
        super().stop(number)

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.home)


class MemcachedProcess(Process):
    """A memcached on a free port."""

    def __init__(self, *settings: str) -> None:
        self.port = free_port()
        command = [program("memcached"), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-B", "ascii"]
        user = account()
        if user:
            command += ["-u", user]
        # It only tells that it listens if it also tells of every command.
        super().__init__([*command, *settings], "", Path("/"))

    @property
    def location(self) -> str:
        """As in the option serverLocation."""
        return f"127.0.0.1:{self.port}"


class MariadbProcess(Process):
    """A MariaDB server on a free port with an empty database ``records``; user ``root``, no password."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.port = free_port()
        self.home = private_directory("mariadb")
        data = self.home / "data"
        self.socket = self.home / "socket"
        user = account()
        group = None if user is None else pwd.getpwnam(user).pw_gid
        subprocess.run(
            [
                program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db",
                "--auth-root-authentication-method=normal", "--skip-name-resolve",
            ],
            check=True, capture_output=True, cwd=self.home,
            user=user, group=group, extra_groups=[] if user else None,
        )  # fmt: skip
        (data / "records").mkdir(mode=0o777)
        (data / "records").chmod(0o777)
        command = [
            program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--socket={self.socket}",
            f"--port={self.port}", "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M", "--skip-name-resolve",
        ]  # fmt: skip
        if certificate is not None:
            cert, key = private_copies(certificate, self.home)
            command += [f"--ssl-cert={cert}", f"--ssl-key={key}"]
        super().__init__(command, "ready for connections", self.home, user=user)

    def remove(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.home)
