"""TLS settings as Node's options give them."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsfast_plugins.options import OptionError

__all__ = ["tls_context"]


def tls_context(given: Mapping[str, Any] | bool | None, option: str = "tls") -> ssl.SSLContext | None:
    """The TLS settings of an option, None without TLS. Raises OptionError.

    Node's names: ``ca``, ``cert``, ``key`` (PEM text, or the path of a file), ``passphrase``,
    ``rejectUnauthorized`` and ``servername`` (an empty one is not checked).
    """
    if given is None or given is False:
        return None
    if given is True:
        given = {}
    context = ssl.create_default_context()
    try:
        if authorities := given.get("ca"):
            texts = authorities if isinstance(authorities, list) else [authorities]
            context.load_verify_locations(cadata="\n".join(_pem_text(text) for text in texts))
        if certificate := given.get("cert"):
            with _pem_file(certificate) as chain, _pem_file(given.get("key")) as key:
                context.load_cert_chain(chain or "", key, given.get("passphrase"))
    except (OSError, ValueError, TypeError) as error:  # ssl.SSLError is an OSError
        raise OptionError(
            f"option {option}: expected PEM text or the path of a PEM file ({error})"
        ) from error
    if given.get("rejectUnauthorized") is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif given.get("servername") == "":
        context.check_hostname = False
    return context


def _pem_text(given: Any) -> str:
    text = str(given)
    return text if "-----BEGIN" in text else Path(text).read_text("ascii")


@contextmanager
def _pem_file(given: Any) -> Iterator[str | None]:
    """The path of a PEM file; text is put into one for as long as it takes to load it."""
    if not given or "-----BEGIN" not in str(given):
        yield str(given) if given else None
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # readable by its owner only
        file.write(str(given))
        file.flush()
        yield file.name
