"""The listening sockets of an endpoint, and how the connections they brought come to an end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Coroutine
from typing import Any

from dsfast._core.connection import Endpoint
from dsfast.endpoints.proxy_protocol import MAX_HEADER, ProxyProtocolError, parse
from dsfast.endpoints.tls import Certificates, reason_of

__all__ = ["Listener"]

BACKLOG = 4096
CLOSE_SLICE = 500
"""Connections closed in one turn of the loop, so that a shutdown does not stall those still being served."""
GOING_AWAY = 1001
ACCEPT_SLICE = 64
"""Connections accepted in one turn of the loop."""
ACCEPT_PAUSE = 1.0
"""Seconds until it is tried again after the process had no file left for a connection."""

Refused = Callable[[str, str], None]
"""Is told the address of a client, and why it was not let in."""


class Listener:
    """Accepts connections for a core endpoint, whose owner calls :meth:`on_empty`.

    ``certificates`` makes it TLS. ``speaks_for_others(address)`` names the peers whose connections begin with
    a header of the PROXY protocol. ``refused`` is told of connections that did not come about.
    """

    def __init__(
        self,
        core: Endpoint,
        *,
        certificates: Certificates | None = None,
        speaks_for_others: Callable[[str], bool] | None = None,
        refused: Refused | None = None,
    ) -> None:
        self._core = core
        self._certificates = certificates
        self._speaks_for_others = speaks_for_others
        self._refused = refused or (lambda address, reason: None)
        self._servers: list[asyncio.Server | _Acceptor] = []
        self._sockets: list[socket.socket] = []
        self._paths: dict[str, int] = {}
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int) -> None:
        """Open a TCP port, on every address of the host. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                await self._serve(sock)
            except BaseException:
                sock.close()
                raise

    async def listen_unix(self, path: str, mode: int) -> None:
        """Open a Unix socket with these permissions. Raises OSError.

        A socket that a dead server has left there is replaced; one that is in use, or a file of another kind,
        is an error.
        """
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            # Nobody can connect before it listens, so its permissions are never wider than they should be.
            os.chmod(path, mode)
            self._paths[path] = os.stat(path).st_ino
            await self._serve(sock)
        except BaseException:
            sock.close()
            raise

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        sock.listen(BACKLOG)
        # Where nothing comes before the protocol the loop accepts, which is faster.
        if self._certificates is not None or self._speaks_for_others is not None:
            self._servers.append(_Acceptor(sock, self._begin, self._refused))
        elif sock.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(self._core.make, sock=sock, backlog=BACKLOG))
        else:
            self._servers.append(await loop.create_server(self._core.make, sock=sock, backlog=BACKLOG))
        self._sockets.append(sock)

    async def _begin(self, sock: socket.socket, address: str) -> None:
        """What comes before the protocol: for whom the peer speaks, then TLS."""
        core = self._core
        connection = core.make()
        loop = asyncio.get_running_loop()
        limit = core.head_timeout / 1000
        begun = False
        try:
            if self._speaks_for_others is not None and self._speaks_for_others(address):
                async with asyncio.timeout(limit):
                    address = await _read_header(sock) or address
            connection.set_peer_name(address)
            if core.admission is not None and not core.admission.enter(connection):
                return
            tls: dict[str, Any] = {}
            if self._certificates is not None:
                tls = {"ssl": self._certificates.context, "ssl_handshake_timeout": limit}
            await loop.connect_accepted_socket(lambda: connection, sock, **tls)
            begun = True
        finally:
            if not begun:
                sock.close()
                if core.admission is not None:
                    core.admission.leave(connection)

    def accept_when_data_came(self) -> None:
        """For protocols in which the client speaks first, see :func:`_defer`."""
        for sock in self._sockets:
            _defer(sock)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return [sock.getsockname()[:2] for sock in self._sockets if sock.family != socket.AF_UNIX]

    @property
    def paths(self) -> list[str]:
        """The Unix sockets that are listened on."""
        return list(self._paths)

    def stop_accepting(self) -> None:
        """Refuse new clients from now on."""
        for server in self._servers:
            server.close()
        for path, inode in self._paths.items():
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._servers, self._sockets, self._paths = [], [], {}

    def on_empty(self) -> None:
        """The last connection is gone."""
        self._empty.set()

    async def close(self) -> None:
        """Send everybody what is queued for them and a farewell, and wait until they are gone.

        Those that have not gone after two seconds are cut off.
        """
        self.stop_accepting()
        core = self._core
        try:
            while core.open_connections():
                core.close_connections(GOING_AWAY, CLOSE_SLICE)
                await asyncio.sleep(0)
            while core.connections:
                self._empty.clear()
                await self._empty.wait()
        finally:
            core.abort_connections()


class _Acceptor:
    """Accepts the connections of a listening socket if something comes before their protocol."""

    def __init__(
        self,
        sock: socket.socket,
        begin: Callable[[socket.socket, str], Coroutine[Any, Any, None]],
        refused: Refused,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._begin = begin
        self._refused = refused
        self._beginning: set[asyncio.Task[None]] = set()
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept nobody any more, and drop those who have not begun."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in self._beginning:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPT_SLICE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Without a pause it would be tried, and fail, in every turn.
                self._refused("", f"accept: {error.strerror}")
                self._loop.remove_reader(self._sock)
                self._loop.call_later(ACCEPT_PAUSE, self._go_on)
                return
            sock.setblocking(False)
            address = peer[0] if isinstance(peer, tuple) else "unix"
            task = self._loop.create_task(self._started(sock, address))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _go_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    async def _started(self, sock: socket.socket, address: str) -> None:
        try:
            await self._begin(sock, address)
        except ssl.SSLError as error:
            self._refused(address, f"no TLS: {reason_of(error)}")
        except ProxyProtocolError as error:
            self._refused(address, f"PROXY protocol: {error}")
        except TimeoutError:
            self._refused(address, "it did not begin in time")
        except OSError as error:
            self._refused(address, str(error.strerror or error))


async def _read_header(sock: socket.socket) -> str | None:
    """Whom a proxy speaks for. What comes behind its header stays in the socket for whoever reads next."""
    loop = asyncio.get_running_loop()
    data = b""
    while True:
        await _readable(loop, sock)
        try:
            fresh = sock.recv(MAX_HEADER, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not fresh:
            raise ProxyProtocolError("the connection ended before its header")
        header = parse(data + fresh)
        # As long as the header has no end, all that is there belongs to it.
        taken = len(fresh) if header is None else header.size - len(data)
        sock.recv(taken)
        data += fresh[:taken]
        if header is not None:
            return header.address


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is gone. Raises OSError if the path is taken otherwise."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _defer(listening: socket.socket) -> None:
    """Let the kernel hold new connections back until their first bytes are there, where it can.

    A login then costs one wake-up less (a quarter more logins per second), and a client that says nothing
    costs no connection for the first second.
    """
    # A Unix socket does not have the option.
    if hasattr(socket, "TCP_DEFER_ACCEPT") and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
