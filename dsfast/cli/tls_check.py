"""Whether certificates and keys of a configuration can be used, and for how long."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsfast.endpoints.tls import TlsError, read_parts, reason_of, server_context

__all__ = ["TlsError", "certificates_in", "check_certificate"]

SOON = 14 * 24 * 3600
"""Seconds before its end from which a certificate is worth a warning."""


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
    Raises :class:`TlsError`.
    """
    parts = read_parts(given, directory)
    passphrase = given.get("passphrase")
    passphrase = None if passphrase is None else str(passphrase)
    # Once with, once without a look at clients, since this one has no certificate.
    asked = given.get("clientCertificates") in ("optional", "required")
    server_context(parts, passphrase=passphrase, client_certificates="required" if asked else "none")
    server = server_context(parts, passphrase=passphrase)
    return _warning(_shake_hands(server, parts["cert"]))


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
                raise TlsError(getattr(error, "verify_message", "") or reason_of(error)) from None
    return theirs.getpeercert() or {}


def _warning(certificate: Mapping[str, Any]) -> str | None:
    end = certificate.get("notAfter")
    if end is None or ssl.cert_time_to_seconds(end) - time.time() > SOON:
        return None
    return f"the certificate ends on {end}"
