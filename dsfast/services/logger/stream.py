"""What the built-in loggers have in common: they write lines to the standard streams."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TextIO

from dsfast.plugin import Logger
from dsfast.services.logger.output import Output

__all__ = ["StreamLogger", "lost_text"]


class StreamLogger(Logger):
    """A logger of lines; see :class:`Output` for what happens when nobody reads them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outputs: list[Output] = []

    @abstractmethod
    def lost_line(self, count: int) -> bytes:
        """The line that tells how many were lost because nobody read them, with its line break."""

    def output(self, stream: TextIO | None) -> Output:
        """The output for ``sys.stdout`` or ``sys.stderr``, as they are at this moment."""
        for output in self._outputs:
            if output.stream is stream:
                return output
        output = Output(stream, self.lost_line)
        self._outputs.append(output)
        return output

    def flush(self) -> None:
        """Give slow readers a last chance (a quarter of a second), since the process may be about to end."""
        for output in self._outputs:
            output.flush()

    async def close(self) -> None:
        """Flush, and stop waiting for readers."""
        for output in self._outputs:
            output.close()


def lost_text(count: int) -> str:
    """Text of the line about lost lines."""
    return f"{count} log lines were lost because nobody read them in time"
