"""Hash table from the UTF-8 bytes of a name to the object of that name."""

class Named:
    def decoded(self) -> str: ...

class NameTable:
    count: int
