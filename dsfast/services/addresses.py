"""Addresses of clients, as limits count them."""

from __future__ import annotations

import ipaddress

__all__ = ["UNIX", "counted_as"]

UNIX = "unix"
"""What stands for the address of a peer on a Unix socket."""


def counted_as(address: str | None) -> str | None:
    """By what a client is counted: its address, or its /64 network for IPv6.

    None for those that are not counted one by one: loopback addresses and Unix sockets, since a proxy there
    stands for all its clients.
    """
    if not address or address == UNIX:
        return None
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return None if parsed.is_loopback else str(int(parsed) >> 64)
        parsed = parsed.ipv4_mapped
    return None if parsed.is_loopback else str(parsed)
