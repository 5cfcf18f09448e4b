"""Bodies of requests: JSON, perhaps compressed, within bounds (http.md section 2)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from dsfast._core.json_text import JsonError, loads

__all__ = ["TOO_LARGE", "BodyError", "read_json"]

TOO_LARGE = "Failed to parse body of request: request entity too large"
GZIP = 16 + zlib.MAX_WBITS
"""What zlib calls the gzip format."""


class BodyError(Exception):
    """The body cannot be used; ``status`` and the text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def read_json(headers: Mapping[str, str], body: bytearray | bytes, limit: int) -> Any:
    """The object or array in a body, None if it is empty. Raises :class:`BodyError`.

    A compressed body counts as what it is after decompression, and is read no further than ``limit``.
    """
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        text = 'Invalid "Content-Type" header. Supported media types: "application/json"'
        raise BodyError(415, text)
    if parameters:
        _check_charset(parameters)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        body = _decompress(encoding, body, limit)
    if not body:
        return None
    try:
        data = loads(bytes(body))
    except JsonError as error:
        raise BodyError(400, f"Failed to parse body of request: {error}") from None
    if not isinstance(data, dict | list):
        raise BodyError(400, "Failed to parse body of request: neither a JSON object nor an array")
    return data


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8", "us-ascii"):
            raise BodyError(415, f'Unsupported charset "{charset[:64]}". JSON is UTF-8')


def _decompress(encoding: str, body: bytearray | bytes, limit: int) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        formats = [GZIP]
    elif encoding == "deflate":
        # The name means zlib's format, but some send the raw one.
        formats = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
    else:
        raise BodyError(415, f'Unsupported content encoding "{encoding[:64]}"')
    for form in formats:
        reader = zlib.decompressobj(form)
        try:
            data = reader.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(data) > limit:
            raise BodyError(413, TOO_LARGE)
        if reader.eof and not reader.unused_data:
            return data
    raise BodyError(400, f"Failed to parse body of request: not in the format {encoding}")
