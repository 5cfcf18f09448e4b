"""JSON validation and the record document codec (spec/caches.md section 8)."""

class JsonError(ValueError):
    """The bytes are not a JSON text (RFC 8259), or nest deeper than 512 containers."""

def check(text: bytes) -> int:
    """Kind of the JSON text (1 object, 2 array, 3 string, 4 number, 5 true, 6 false, 7 null; plus 16 if a
    number has a fraction or an exponent), or -1 if it is not JSON."""

def is_utf8(text: bytes) -> bool:
    """Whether the bytes are well-formed UTF-8."""

def loads(text: bytes) -> object:
    """The value of a JSON text, as a fresh object that the caller may change.

    Integral floats below 2**53 come back as int, numbers that overflow a double as None, integers beyond
    64 bits as float; of duplicate keys the last wins. Raises JsonError if `text` is not JSON.
    """

def dumps(value: object) -> bytes:
    """The compact JSON text (UTF-8) of a value that came from JSON; never fails for such a value."""
