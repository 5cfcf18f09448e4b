"""Behind a proxy a connection has the address of the client it speaks for (connection-and-auth.md 1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence

from dsfast.plugin import PluginError
from dsfast.services.addresses import UNIX

__all__ = ["Proxies"]

FORWARDED = "x-forwarded-for"
MAX_ADDRESS = 64
"""Characters of what a trusted proxy gives instead of an address."""


class Proxies:
    """The proxies that are believed about the addresses of their clients.

    ``trusted`` are addresses and networks (``10.0.0.0/8``), and ``unix`` for whoever comes by a Unix socket.
    Raises :class:`PluginError` for anything else.
    ``on_unknown`` is called once with the address of a loopback peer that forwards without being trusted:
    everybody behind it then counts as one, which is hardly meant.
    """

    def __init__(self, trusted: Sequence[str], on_unknown: Callable[[str], None]) -> None:
        self._unix = UNIX in trusted
        try:
            self._networks = [ipaddress.ip_network(text, strict=False) for text in trusted if text != UNIX]
        except ValueError as error:
            raise PluginError(f"httpServer.options.trustedProxies: {error}") from None
        self._on_unknown: Callable[[str], None] | None = on_unknown

    def client(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """The address of the client.

        Each proxy appends whom it speaks for, so the list is read from its end for as long as trusted proxies
        say it; what a client has put in front of it does not count.
        """
        forwarded = headers.get(FORWARDED)
        if not forwarded or peer is None:
            return peer
        if not self.trusts(peer):
            self._notice(peer)
            return peer
        address = peer
        for entry in reversed(forwarded.split(",")):
            if not (entry := entry.strip()):
                break
            parsed = _parse(entry)
            address = str(parsed) if parsed else entry[:MAX_ADDRESS]
            if not self.trusts(address):
                break
        return address

    def trusts(self, address: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        if address == UNIX:
            return self._unix
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def _notice(self, peer: str) -> None:
        parsed = _parse(peer)
        if self._on_unknown is not None and parsed is not None and parsed.is_loopback:
            self._on_unknown(peer)
            self._on_unknown = None


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, also with port or brackets as some proxies write it; IPv4 is taken out of IPv6."""
    text = address
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
