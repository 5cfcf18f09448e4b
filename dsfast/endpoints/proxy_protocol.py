"""The PROXY protocol, versions 1 and 2: how a TCP proxy says for whom it has connected.

https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = ["Header", "ProxyProtocolError", "parse"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""Beginning of version 2."""
PREFIX = b"PROXY "
"""Beginning of version 1."""
MAX_LINE = 107
"""Bytes of a version 1 header, with its end."""
MAX_HEADER = 2048
"""Bytes of a version 2 header; the addresses are first, additions behind them are passed over."""

_PORT = re.compile("0|[1-9][0-9]{0,4}")
_WIDTHS = {1: 4, 2: 16}
"""Bytes of an address by family; two addresses and two ports of two bytes each follow the head."""
_UNIX = 3


class ProxyProtocolError(ValueError):
    """What came is no header of the PROXY protocol."""


class Header(NamedTuple):
    """How many bytes the header was, and the address of the client; None if the proxy speaks for itself."""

    size: int
    address: str | None


def parse(data: bytes) -> Header | None:
    """The header at the beginning of ``data``; None if more bytes are needed.

    Raises :class:`ProxyProtocolError`.
    """
    if data.startswith(SIGNATURE):
        return _version_2(data)
    if data.startswith(PREFIX):
        return _version_1(data)
    if SIGNATURE.startswith(data) or PREFIX.startswith(data):
        return None
    raise ProxyProtocolError("no PROXY header")


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise ProxyProtocolError("the line is too long")
        return None
    try:
        words = data[: end + 1].decode("ascii")
    except UnicodeDecodeError:
        raise ProxyProtocolError("the line is not ASCII") from None
    if not words.endswith("\r\n"):
        raise ProxyProtocolError("the line ends without CR")
    protocol, *rest = words[len(PREFIX) : -2].split(" ")
    if protocol == "UNKNOWN":  # whatever follows has to be ignored
        return Header(end + 1, None)
    if protocol not in ("TCP4", "TCP6") or len(rest) != 4:
        raise ProxyProtocolError("the line makes no sense")
    kind = ipaddress.IPv4Address if protocol == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ = kind(rest[0]), kind(rest[1])
    except ValueError:
        raise ProxyProtocolError("an address makes no sense") from None
    if "%" in rest[0] or not all(_PORT.fullmatch(port) and int(port) < 65536 for port in rest[2:]):
        raise ProxyProtocolError("a port makes no sense")
    return Header(end + 1, _plain(source))


def _version_2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family, transport = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or family > _UNIX or transport > 2:
        raise ProxyProtocolError("the header makes no sense")
    size = 16 + length
    if size > MAX_HEADER:
        raise ProxyProtocolError("the header is too long")
    if len(data) < size:
        return None
    if command == 0 or family not in _WIDTHS or transport != 1:  # the proxy's own connection, or no TCP
        return Header(size, None)
    width = _WIDTHS[family]
    if length < 2 * width + 4:
        raise ProxyProtocolError("the addresses are cut off")
    return Header(size, _plain(ipaddress.ip_address(data[16 : 16 + width])))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As text; IPv4 is taken out of IPv6."""
    return str(getattr(address, "ipv4_mapped", None) or address)
