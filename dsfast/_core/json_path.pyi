"""Paths into record documents (spec/records.md section 5); every function is atomic."""

from collections.abc import Iterable
from typing import Any

class PathError(ValueError):
    """The path is malformed, does not fit the document or exceeds a limit; nothing was changed."""

def parse_path(path: str) -> tuple[str | int, ...]:
    """The tokens of a path: str for a member name, int for an array index; at least one.

    Raises PathError for everything outside the grammar and for paths of more than 512 tokens.
    """

def set_value(
    root: object, path: str, value: object, max_index_growth: int = 10_000, max_array_length: int = 1_000_000
) -> int:
    """Set `path` in the dict or list `root`, in place.

    `value` becomes part of the document. An array may grow by at most `max_index_growth` holes, counted
    over all arrays of the path, and to at most `max_array_length` elements; the document to at most 512
    levels on this path. Returns the number of array holes made. Raises PathError, and then has changed
    nothing.
    """

def erase_value(
    root: object, path: str, max_index_growth: int = 10_000, max_array_length: int = 1_000_000
) -> int:
    """Erase `path` in `root`, in place: a member goes away, an array element becomes null.

    Missing parents are created. Result, limits and errors are those of `set_value`.
    """

def apply_multi(
    root: object,
    operations: Iterable[tuple[str, bool, Any]],
    max_index_growth: int = 10_000,
    max_array_length: int = 1_000_000,
) -> int:
    """Apply (path, has_value, value) triples in order, all or none: set where `has_value`, else erase.

    The limits of `set_value` hold for each operation; all of them together may make at most
    `max_array_length` array holes, whose number is returned. On PathError the document is exactly as before.
    """
