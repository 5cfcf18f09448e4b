"""What JavaScript means by undefined, by a number as text and by a string."""

from typing import Final, final

@final
class Undefined:
    """JavaScript's undefined inside Python values (None is null); there is one, UNDEFINED. It is false."""

UNDEFINED: Final[Undefined]

def number_text(number: float) -> str:
    """The int or float as JavaScript's String(number) writes it: `1`, `1.5`, `1e+21`, `NaN`, `-0` as `0`.

    An int beyond the range of a double is `Infinity` or `-Infinity`.
    """
