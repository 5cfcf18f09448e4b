"""Finds the class of a plugin that a configuration names (configuration.md section 4, plugins.md A.4)."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dsfast.config.files import resolve_path
from dsfast.plugin import Plugin
from dsfast.services.factory import PluginLoadError

if TYPE_CHECKING:
    from dsfast.config import Config

__all__ = ["class_by_name", "class_by_path", "entry_point_group"]

_GROUPS = {"connection_endpoint": "connection", "http_service": "http_server"}
"""Where a group of entry points is not called like its kind."""

_CLASS = re.compile(r"(?P<path>.+):(?P<name>[A-Za-z_]\w*)")
_JAVASCRIPT = (".js", ".cjs", ".mjs", ".ts", ".cts", ".mts", ".jsx", ".tsx")


def entry_point_group(kind: str) -> str:
    """The group of entry points in which packages offer plugins of a kind."""
    return f"dsfast.{_GROUPS.get(kind, kind)}"


def class_by_path(kind: str, base: type[Plugin], path: str, config: Config) -> type[Any]:
    """The class at ``file.py``, ``file.py:Class``, ``package.module`` or ``package.module:Class``.

    A relative file is looked for in the library directory, without one in the directory of the configuration
    file. Without a class the attribute ``plugin`` of the module is taken, or the only class in it that fits.
    Raises :class:`PluginLoadError`.
    """
    what = f"Error loading {kind} plugin via path {path}"
    match = _CLASS.fullmatch(path)
    place, name = (match["path"], match["name"]) if match else (path, None)
    if place.lower().endswith(_JAVASCRIPT):
        raise PluginLoadError(f"{what}: JavaScript plugins are not supported")
    library = config.library_directory
    if "/" in place or "\\" in place or place.endswith(".py"):
        prefix = library or config.source.directory or Path.cwd()
        file = _file(resolve_path(place, prefix))
        if file is None:
            raise PluginLoadError(f"{what}: there is no file {resolve_path(place, prefix)}")
        module = _loaded(what, lambda: _import_file(file), library, file.parent)
    else:
        module = _loaded(what, lambda: import_module(place), library)
    return _class_in(what, module, base, name)


def class_by_name(kind: str, base: type[Plugin], name: str, config: Config) -> type[Any]:
    """The class of an installed plugin: an entry point, else a module in the library directory.

    Case does not count. Raises :class:`PluginLoadError`.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, and rarely needed

    group = entry_point_group(kind)
    found = {entry.value: entry for entry in entry_points(group=group) if entry.name.lower() == name.lower()}
    if len(found) > 1:
        origins = ", ".join(sorted(found))
        raise PluginLoadError(f"the {kind} plugin {name} is installed more than once: {origins}")
    library = config.library_directory
    for entry in found.values():
        what = f"Error loading {kind} plugin {name} ({entry.value})"
        plugin = _loaded(what, entry.load, library)
        return _class_in(what, plugin, base, None) if inspect.ismodule(plugin) else _checked(what, plugin)
    short = group.removeprefix("dsfast.")
    module_name = f"dsfast_{short}_{name}".lower().replace("-", "_")
    if library is not None and _file(str(library / module_name)) is not None:
        what = f"Error loading {kind} plugin {name} from {library}"
        return _class_in(what, _loaded(what, lambda: import_module(module_name), library), base, None)
    where = f", and there is no {module_name}.py in {library}" if library else ""
    raise PluginLoadError(
        f"unable to resolve {kind} plugin {name}: no such name is registered or installed "
        f"(entry points {group}){where}"
    )


def _loaded(what: str, load: Callable[[], Any], *directories: Path | None) -> Any:
    """What ``load`` returns, while plugins find modules in the directories."""
    try:
        with _on_path([str(directory) for directory in directories if directory is not None]):
            return load()
    # Whatever the code of somebody else does while it is imported, sys.exit() included.
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise PluginLoadError(f"{what}: {text}") from error


@contextlib.contextmanager
def _on_path(directories: list[str]) -> Iterator[None]:
    added = [directory for directory in dict.fromkeys(directories) if directory not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for directory in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(directory)


def _file(path: str) -> Path | None:
    """The Python file that a path means: with or without ``.py``, or a package."""
    candidates = (path, f"{path}.py", os.path.join(path, "__init__.py"))
    return next((Path(candidate) for candidate in candidates if os.path.isfile(candidate)), None)


def _import_file(file: Path) -> ModuleType:
    """The module in a file; loaded once, however many plugins are in it."""
    name = f"dsfast_plugin_{file.stem}_{zlib.crc32(str(file).encode('utf-8', 'surrogateescape')):08x}"
    if name in sys.modules:
        return sys.modules[name]
    packages = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=packages)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _class_in(what: str, module: ModuleType, base: type[Plugin], name: str | None) -> type[Any]:
    if name is None and hasattr(module, "plugin"):
        name = "plugin"
    if name is not None:
        if not hasattr(module, name):
            raise PluginLoadError(f"{what}: there is no {name} in it")
        return _checked(what, getattr(module, name))
    classes = [item for item in vars(module).values() if inspect.isclass(item)]
    own = [item for item in classes if item.__module__ == module.__name__ and issubclass(item, Plugin)]
    fitting = [item for item in own if issubclass(item, base)] or own
    if len(fitting) > 1:
        fitting = [item for item in fitting if not inspect.isabstract(item)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise PluginLoadError(f"{what}: there is no class in it that derives from {base.__name__}")
    names = ", ".join(item.__name__ for item in fitting)
    raise PluginLoadError(f"{what}: there are several classes in it ({names}), write :Class behind the path")


def _checked(what: str, plugin_class: Any) -> type[Any]:
    if not inspect.isclass(plugin_class):
        raise PluginLoadError(f"{what}: {plugin_class!r} is no class")
    return plugin_class
