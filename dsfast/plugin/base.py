"""What every plugin is (plugins.md A.1)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.plugin.logger import Logger
    from dsfast.services import Services

__all__ = ["Plugin", "PluginError"]


class PluginError(Exception):
    """An error of one plugin operation whose text may be logged and sent to the client."""


class Plugin(ABC):
    """What every plugin is.

    ``options`` is the plugin's own section of the configuration (``{}`` when absent), ``services`` the shared
    registry, ``config`` the merged configuration. Order of calls: constructor, :meth:`init`,
    :meth:`when_ready`, work, :meth:`close`.
    """

    description: str = ""
    """Text of the start-up line ``<service> ready: <description>``."""

    options: Any
    """A mapping with the original keys; the built-in plugins get the typed section of the configuration."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        self.options = options
        self.services = services
        self.config = config

    @property
    def logger(self) -> Logger:
        """The server's logger. ``fatal`` declares the plugin dead (plugins.md A.1)."""
        return self.services.logger

    def init(self) -> None:  # noqa: B027 - an optional hook
        """Called once when the server starts, right before :meth:`when_ready`."""

    async def when_ready(self) -> None:  # noqa: B027 - an optional hook
        """Return when the plugin can work.

        It must do so within ``dependencyInitializationTimeout`` milliseconds. An exception, or a timeout,
        makes the start of the server fail.
        """

    async def close(self) -> None:  # noqa: B027 - an optional hook
        """Release everything. May be called on a plugin whose start failed half way."""
