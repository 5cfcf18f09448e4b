"""The built-in loggers, and the guard that keeps one client from filling the log."""

from dsfast.services.logger.default import DefaultLogger
from dsfast.services.logger.flood_guard import FloodGuard

__all__ = ["DefaultLogger", "FloodGuard"]
