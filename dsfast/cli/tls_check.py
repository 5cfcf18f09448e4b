"""Whether certificates and keys of a configuration can be used, and for how long."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

__all__ = ["TlsProblem", "certificates_in", "check_certificate"]

SOON = 14 * 24 * 3600
"""Seconds before its end from which a certificate is worth a warning."""

_PEM = "-----BEGIN "


class TlsProblem(Exception):
    """A certificate or key cannot be used."""


def certificates_in(value: Any, pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The ``ssl`` mappings of a configuration, each with its JSON pointer."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key == "ssl" and isinstance(entry, Mapping):
                yield f"{pointer}/ssl", entry
            else:
                yield from certificates_in(entry, f"{pointer}/{key}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from certificates_in(entry, f"{pointer}/{index}")


def check_certificate(given: Mapping[str, Any], directory: Path | None) -> str | None:
    """Try a certificate and its key on a connection in memory.

    Values are PEM text, or paths relative to ``directory``. Returns a warning if the certificate ends soon.
    Raises :class:`TlsProblem`.
    """
    with ExitStack() as stack:
        cert, key = (_file(given, name, directory, stack) for name in ("cert", "key"))
        if cert is None or key is None:
            raise TlsProblem("key and cert are both needed")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # With a text as passphrase OpenSSL never asks for one on the terminal.
            server.load_cert_chain(cert, key, str(given.get("passphrase") or ""))
        except ssl.SSLError as error:
            raise TlsProblem(_why_not(error, _read(cert), _read(key))) from None
        for name in ("ca", "dhParams"):
            _load_other(server, name, _file(given, name, directory, stack))
        return _warning(_shake_hands(server, _read(cert)))


def _file(given: Mapping[str, Any], name: str, directory: Path | None, stack: ExitStack) -> str | None:
    """The path of a file with this value; the module ssl reads files only."""
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise TlsProblem(f"{name} is no text")
    if _PEM in value:
        file = tempfile.NamedTemporaryFile("w", suffix=".pem")  # noqa: SIM115 - the stack closes it
        stack.enter_context(file)
        file.write(value)
        file.flush()
        return file.name
    path = os.path.join(directory or "", value)
    try:
        with open(path, "rb"):
            return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TlsProblem(f"{name} cannot be read: {path}: {reason}") from None


def _load_other(server: ssl.SSLContext, name: str, path: str | None) -> None:
    if path is not None:
        try:
            if name == "ca":
                server.load_verify_locations(path)
            else:
                server.load_dh_params(path)
        except ssl.SSLError as error:
            raise TlsProblem(f"{name}: {_reason(error)}") from None


def _shake_hands(server: ssl.SSLContext, chain: str) -> Mapping[str, Any]:
    """The certificate as a client sees it who trusts nothing but this certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=chain)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (theirs, ours):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                raise TlsProblem(getattr(error, "verify_message", "") or _reason(error)) from None
    return theirs.getpeercert() or {}


def _warning(certificate: Mapping[str, Any]) -> str | None:
    end = certificate.get("notAfter")
    if end is None or ssl.cert_time_to_seconds(end) - time.time() > SOON:
        return None
    return f"the certificate ends on {end}"


def _read(path: str) -> str:
    return Path(path).read_text("utf-8", "replace")


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
    return _reason(error)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "damaged PEM file").lower().replace("_", " ")
