"""Names and values that a cache or storage has to keep exactly."""

from __future__ import annotations

from typing import Any

__all__ = ["LARGE", "NAMES", "VALUES"]

NAMES: tuple[str, ...] = (
    "plain", "user/1", "user/1/2", "a b", "ä/ö", "x_v", "x_d", "{tag}", "{a}{b}", "n" * 300,
    "'", "it's/o'clock", '"', 'a"b/c"d', ";", "a;b/c;d", "'\";", "'); DROP TABLE records; --",
    "/leading", "trailing/", "/", "//", "$where", "a.b", ".", "..", "../up", "*", "%", "%2F", "_", "_id",
    "__proto__", "\\", "C:\\x", "#?&=", "\U0001f600/\U0001f680", "e\u0301", "line\nfeed", "tab\there",
    "\x01\x1f", "UPPER/Case", "upper/case", "null",
)  # fmt: skip
"""Record names are arbitrary non-empty strings (caches.md section 1)."""

VALUES: tuple[Any, ...] = (
    {}, [], {"a": 1}, ["x", "y"], [[]], {"": None}, {"a": {"b": {"c": [1, 2, {"d": True}]}}},
    {"n": [0, -1, 1.5, 1e300, 2**53, -(2**63), 2**64 - 1]}, {"s": "ä\u20ac\U0001f600 \" \\ \n \x01 '"},
    {"__proto__": 1, "constructor": 2, "$set": {"a.b": 3}, "_id": 4, "ds_key": 5, "v": 6, "d": 7},
    {"surrogate": "\ud800"}, {"_d": {"x": 1}, "_v": 3}, {"version": 9, "data": None},
)  # fmt: skip
"""A record is any JSON object or array."""

LARGE: dict[str, str] = {"text": "0123456789abcdef" * 65536}
"""1 MiB."""
