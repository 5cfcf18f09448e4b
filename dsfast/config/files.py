"""Finding and reading configuration files: lookup order, macros, paths (configuration.md section 1)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dsfast.config.problems import ConfigError
from dsfast.config.syntax import Document, SyntaxProblem, escaped, parse_json, parse_yaml

__all__ = ["Note", "Place", "Source", "find_file", "read_document", "read_file", "resolve_path"]

EXTENSIONS = (".yml", ".yaml", ".json", ".js")
MAX_FILE_SIZE = 4 << 20
"""Largest configuration file, in bytes."""
MAX_LOADED_SIZE = 64 << 20
"""Largest file that ``fileLoad`` reads, in bytes; user files can be large."""

_COMMENT = re.compile(r"(^|\s)#")
_VARIABLE = re.compile(r"\$\{([^{}\n]+)\}")
_MACRO = re.compile(r"\s*(file|fileLoad)\((.*)\)\s*", re.DOTALL)


class Place(NamedTuple):
    """Where a value was written: a file with a line, or an environment variable (line 0)."""

    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}" if self.line else self.name


class Note(NamedTuple):
    """Something to be written to the log once there is one."""

    event: str
    text: str


@dataclass(slots=True)
class Source:
    """The values that were given for a configuration, before the defaults, and where they come from."""

    values: Any = field(default_factory=dict)
    file: Path | None = None
    directory: Path | None = None
    """Directory of the file; base of the relative paths in it."""
    places: dict[str, Place] = field(default_factory=dict)
    """Place of each value by its JSON pointer."""
    loaded: dict[str, Path] = field(default_factory=dict)
    """Files that ``fileLoad`` put into the configuration, by JSON pointer."""
    library_directory: Path | None = None
    """Where plugins are looked for if ``libDir`` does not say it."""
    notes: list[Note] = field(default_factory=list)
    """Lines for the log of the server that uses this."""

    def place(self, pointer: str) -> Place | None:
        """Where the value at a pointer, or the nearest one around it, was written."""
        found = self.places.get("")
        path = ""
        for key in pointer.split("/")[1:]:
            if f"{path}/{key}" in self.places:
                path = f"{path}/{key}"
                found = self.places[path]
            elif key != "0":  # 0: a mapping that was taken as a list of one
                break
        return found

    def forget_values(self) -> None:
        """The server has started: what was given is of no use any more, and user files can be large."""
        self.values = {}
        self.places = {}

    def forget_places(self, pointer: str) -> None:
        """What is below a pointer has been replaced."""
        self.places = {at: place for at, place in self.places.items() if not at.startswith(pointer + "/")}


def find_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file of this machine, as the specification looks for it; None if there is none.

    ``DEEPSTREAM_CONFIG_DIRECTORY`` names a file, or a directory with ``config.yml`` in it, and is not
    optional when it is set. Raises :class:`ConfigError`.
    """
    if named := environ.get("DEEPSTREAM_CONFIG_DIRECTORY"):
        path = Path(named)
        if not path.is_dir():
            return path
        found = _first([path / "config"])
        if found is None:
            raise ConfigError.file(f"No config file found in {path} (DEEPSTREAM_CONFIG_DIRECTORY)")
        return found
    return _first(_bases())


def _bases() -> list[Path]:
    executable = Path(sys.executable).parent
    return [
        Path("/etc/deepstream/conf"),
        Path("/etc/deepstream/conf/config"),
        Path("/etc/deepstream/config"),
        Path("conf/config"),
        Path("../conf/config"),
        executable / "conf/config",
        executable / "../conf/config",
    ]


def _first(bases: list[Path]) -> Path | None:
    candidates = (base.with_name(base.name + extension) for base in bases for extension in EXTENSIONS)
    return next((path for path in candidates if path.is_file()), None)


def read_file(path: str | Path, environ: Mapping[str, str] = os.environ) -> Source:
    """Read a configuration file and resolve its macros. Raises :class:`ConfigError`.

    ``${NAME}`` is replaced in the text, before it is parsed. Then every string that is ``file(path)`` as a
    whole becomes the absolute path, and ``fileLoad(path)`` the content of the file; paths are relative to the
    configuration file.
    """
    path = Path(os.path.abspath(path))
    if path.suffix == ".js":
        raise ConfigError.file(
            f"JavaScript configuration files cannot be run, please convert it to YAML or JSON: {path}"
        )
    if path.suffix not in EXTENSIONS:
        raise ConfigError.file(f"{path.suffix or path.name} is not supported as configuration file")
    if not path.is_file():
        raise ConfigError.file(f"Configuration file not found at: {path}")
    source = Source(file=path, directory=path.parent)
    document = _read(path, environ, MAX_FILE_SIZE, source.notes)
    source.places = {pointer: Place(str(path), line) for pointer, line in document.lines.items()}
    source.values = _Macros(source, environ).resolve({} if document.value is None else document.value, "")
    return source


def read_document(path: str | Path, environ: Mapping[str, str] = os.environ) -> Document:
    """What ``fileLoad`` makes of a file: the value, and the line of each part of it by JSON pointer.

    ``.yml``, ``.yaml`` and ``.json`` files are parsed, others are text. Raises :class:`ConfigError`, naming
    file and line.
    """
    return _read(Path(os.path.abspath(path)), environ, MAX_LOADED_SIZE, [])


def resolve_path(path: str, prefix: str | Path | None) -> str:
    """A path of the configuration made absolute; a bare name without a prefix stays what it is (a module)."""
    if os.path.isabs(path):
        return path
    if prefix is None and not path.startswith("."):
        return path
    return os.path.abspath(os.path.join(prefix or "", path))


def _read(path: Path, environ: Mapping[str, str], limit: int, notes: list[Note]) -> Document:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError.file(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise ConfigError.file(f"{path} is larger than {limit} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError.file(f"not valid UTF-8 ({path}, line {line})") from None
    text = "".join(_with_variables(text, path, environ, notes))
    if path.suffix not in (".yml", ".yaml", ".json"):
        return Document(text, {})
    try:
        return parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except SyntaxProblem as problem:
        raise ConfigError.file(f"{problem} ({Place(str(path), problem.line)})") from None


def _with_variables(text: str, path: Path, environ: Mapping[str, str], notes: list[Note]) -> Iterator[str]:
    """The pieces of a text in which each ``${NAME}`` is replaced by that environment variable."""
    end = 0
    for match in _VARIABLE.finditer(text):
        name = match[1].strip()
        # Sample files are full of variables in comments, where it does not matter whether they are set.
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if name not in environ and not _COMMENT.search(before):
            line = text.count("\n", 0, match.start()) + 1
            place = Place(str(path), line)
            notes.append(Note("CONFIG_TRANSFORM", f"{name} is not set and counts as empty ({place})"))
        yield text[end : match.start()]
        yield environ.get(name, "")
        end = match.end()
    yield text[end:]


class _Macros:
    """Replaces the strings ``file(path)`` and ``fileLoad(path)`` in the values of a source."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ

    def resolve(self, value: Any, pointer: str) -> Any:
        if isinstance(value, dict):
            return {key: self.resolve(item, f"{pointer}/{escaped(key)}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, f"{pointer}/{index}") for index, item in enumerate(value)]
        macro = _MACRO.fullmatch(value) if isinstance(value, str) else None
        if macro is None:
            return value
        path = os.path.abspath(os.path.join(str(self._source.directory), macro[2].strip()))
        return path if macro[1] == "file" else self._load(Path(path), macro[0].strip(), pointer)

    def _load(self, path: Path, macro: str, pointer: str) -> Any:
        source = self._source
        if not path.is_file():
            self._fail(f"Error loading config file, missing file {path} for {macro}", pointer)
        if path.suffix == ".js":
            self._fail(f"Error loading config file, JavaScript cannot be run: {path} for {macro}", pointer)
        try:
            document = _read(path, self._environ, MAX_LOADED_SIZE, source.notes)
        except ConfigError as error:
            self._fail(
                f"Error loading config file, invalid format in file {path} for {macro}: {error}", pointer
            )
        for inner, line in document.lines.items():
            source.places[pointer + inner] = Place(str(path), line)
        source.loaded[pointer] = path
        source.notes.append(Note("CONFIG_TRANSFORM", f"Loaded content from {path} for {macro}"))
        return document.value

    def _fail(self, text: str, pointer: str) -> Any:
        place = self._source.place(pointer)
        raise ConfigError.file(f"{text} ({place})" if place else text)
