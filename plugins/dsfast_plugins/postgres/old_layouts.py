"""Values of tables that upstream's connectors before 3.0 made: no column for the version."""

from __future__ import annotations

from typing import Any

from dsfast.services.storage import PermanentStorageError, decode_json, encode_json

__all__ = ["from_old_value"]


def from_old_value(text: str) -> tuple[int, bytes]:
    """Version and data as JSON of a value of connector 2.0 or 1.1. Raises PermanentStorageError.

    2.0: ``{"_d": data, "_v": version}``. 1.1: the data with a key ``__ds`` that holds ``{"_v": version}``, a
    list as ``{"__dsList": [...], "__ds": ...}``.
    """
    try:
        value: Any = decode_json(text.encode())
        if "__ds" in value:
            version = value.pop("__ds")["_v"]
            data = value.get("__dsList", value)
        else:
            version, data = value["_v"], value["_d"]
        if not isinstance(version, int) or not isinstance(data, dict | list):
            raise TypeError("version or data of a wrong type")
    except (ValueError, TypeError, KeyError) as error:
        raise PermanentStorageError(f"a value of no known layout ({error!r})") from error
    return version, encode_json(data)
