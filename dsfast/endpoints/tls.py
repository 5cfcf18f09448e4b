"""Certificates of a port: made into contexts of OpenSSL, and renewed without a restart."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dsfast.plugin import PluginError

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.config.schema import SslOptions
    from dsfast.plugin import Logger

__all__ = ["Certificates", "TlsError", "certificates_of", "read_parts", "reason_of", "server_context"]

PARTS = ("key", "cert", "ca", "dhParams")
"""What is PEM text, or the path of a file with it."""

MAX_FILE_SIZE = 1 << 20
_PEM = "-----BEGIN "
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(ValueError):
    """A certificate or what belongs to it cannot be used; the text says why."""


def read_parts(given: Mapping[str, Any], directory: Path | None) -> dict[str, str]:
    """The texts of key, cert, ca and dhParams, as far as they are given.

    Values are PEM text, or paths relative to ``directory``. Raises :class:`TlsError`.
    """
    parts = {}
    for name in PARTS:
        value = given.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise TlsError(f"{name} is no text")
        parts[name] = value if _PEM in value else _read(name, os.path.join(directory or "", value))
    if "key" not in parts or "cert" not in parts:
        raise TlsError("key and cert are both needed")
    return parts


def _read(name: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TlsError(f"{name} cannot be read: {path}: {reason}") from None
    if len(content) > MAX_FILE_SIZE:
        raise TlsError(f"{name} is larger than {MAX_FILE_SIZE} bytes: {path}")
    return content.decode("utf-8", "replace")


def server_context(
    parts: Mapping[str, str],
    *,
    passphrase: str | None = None,
    client_certificates: str = "none",
    min_version: str = "TLSv1.2",
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """A context for a server from what :func:`read_parts` gives. Raises :class:`TlsError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    with ExitStack() as stack:
        files = {name: _as_file(text, stack) for name, text in parts.items()}
        try:
            # With a text as passphrase OpenSSL never asks for one on the terminal.
            context.load_cert_chain(files["cert"], files["key"], passphrase or "")
        except ssl.SSLError as error:
            raise TlsError(_why_not(error, parts["cert"], parts["key"])) from None
        except ValueError as error:
            raise TlsError(str(error)) from None
        for name, load in (("ca", context.load_verify_locations), ("dhParams", context.load_dh_params)):
            if name in files:
                try:
                    load(files[name])
                except ssl.SSLError as error:
                    raise TlsError(f"{name}: {reason_of(error)}") from None
    if client_certificates != "none" and "ca" not in parts:
        raise TlsError("clientCertificates needs ca: the certificates that they are signed with")
    context.verify_mode = _VERIFY[client_certificates]
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _as_file(text: str, stack: ExitStack) -> str:
    """The path of a file with this text, since the module ssl reads files only; in memory where it can be."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = stack.enter_context(os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "wb"))
        path = f"/proc/self/fd/{file.fileno()}"
    else:
        file = stack.enter_context(tempfile.NamedTemporaryFile("wb", suffix=".pem"))  # noqa: SIM115
        path = file.name
    file.write(text.encode())
    file.flush()
    return path


def _why_not(error: ssl.SSLError, cert: str, key: str) -> str:
    """Why a chain and its key cannot be loaded; OpenSSL mostly does not tell."""
    if "-----BEGIN CERTIFICATE-----" not in cert:
        return "cert holds no certificate in PEM format"
    if "PRIVATE KEY-----" not in key:
        return "key holds no private key in PEM format"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    if "ENCRYPTED" in key:
        return "the passphrase of the key is missing or wrong"
    return reason_of(error)


def reason_of(error: ssl.SSLError) -> str:
    """What OpenSSL says, for people."""
    return (error.reason or "damaged PEM file").lower().replace("_", " ")


def certificates_of(
    options: SslOptions | None, pointer: str, config: Config, logger: Logger, alpn: Sequence[str] = ()
) -> Certificates | None:
    """The certificates for the ``ssl`` options at a pointer of the configuration; None without them.

    Raises :class:`PluginError`.
    """
    if options is None:
        return None
    source = config.source
    try:
        return Certificates(
            options,
            pointer=pointer,
            directory=source.directory,
            loaded=source.loaded,
            logger=logger,
            alpn=alpn,
        )
    except TlsError as error:
        raise PluginError(f"{pointer}: {error}") from None


class Certificates:
    """The certificate of a port. Connections that are open keep the one they began with.

    ``pointer`` is where its options are in the configuration; ``loaded`` says which of them ``fileLoad`` has
    read, and from where. Raises :class:`TlsError`.
    """

    def __init__(
        self,
        options: SslOptions,
        *,
        pointer: str,
        directory: Path | None,
        loaded: Mapping[str, Path],
        logger: Logger,
        alpn: Sequence[str] = (),
    ) -> None:
        self._given: dict[str, Any] = {name: options[name] for name in PARTS}
        for name in PARTS:
            if (path := loaded.get(f"{pointer}/{name}")) is not None:
                self._given[name] = str(path)
        self._options = options
        self._pointer = pointer
        self._directory = directory
        self._logger = logger
        self._alpn = alpn
        self._watcher: asyncio.Task[None] | None = None
        self.context = self._load()
        """For the next connection."""

    def _load(self) -> ssl.SSLContext:
        options = self._options
        return server_context(
            read_parts(self._given, self._directory),
            passphrase=options.passphrase,
            client_certificates=options.client_certificates,
            min_version=options.min_version,
            alpn=self._alpn,
        )

    async def reload(self) -> bool:
        """Read the files again; False if they cannot be used, and the old certificate stays."""
        try:
            self.context = await asyncio.to_thread(self._load)
        except TlsError as error:
            text = f"{self._pointer}: the old certificate stays: {error}"
            self._logger.error("INVALID_CONFIG_DATA", text)
            return False
        self._logger.info("INFO", f"{self._pointer}: the certificate was read again")
        return True

    def watch(self) -> None:
        """Reload when files change, if the options say so."""
        if self._options.watch_interval is not None:
            self._watcher = asyncio.ensure_future(self._watch(self._options.watch_interval / 1000))

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self, interval: float) -> None:
        seen = last = self._state()
        while True:
            await asyncio.sleep(interval)
            now = self._state()
            # Key and certificate are not replaced in the same moment: wait until nothing changes any more.
            if now != seen and now == last and None not in now:
                seen = now
                await self.reload()
            last = now

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells one state of the files from another; None for a file that is missing."""
        paths = [
            os.path.join(self._directory or "", value) for value in self._given.values() if _is_path(value)
        ]
        return tuple(map(_identity, paths))


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and _PEM not in value


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
