"""Record names as table and id (storages.md section 2)."""

from __future__ import annotations

__all__ = ["split_first"]


def split_first(name: str, default: str, sign: str = "/") -> tuple[str, str]:
    """Table and id: what is before and after the first ``sign``.

    A name without it, or with nothing before it, belongs to the table ``default`` as a whole.
    """
    at = name.find(sign) if sign else -1
    return (name[:at], name[at + len(sign) :]) if at > 0 else (default, name)
