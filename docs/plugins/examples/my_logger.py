"""Keeps the debug lines in memory, and writes them when an error happens."""

import sys
from collections import deque

from dsfast import Logger, LogLevel


class Ring(Logger):
    description = "ring"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.lines = deque(maxlen=options.get("size", 500))

    def should_log(self, level):
        return True  # lines below the level come too: they are remembered

    def log(self, level, event, message, meta=None):
        part = f"{meta['namespace']} | " if meta and "namespace" in meta else ""
        self.lines.append(f"{part}{event} | {message}")
        if level < self.level:
            return
        if level >= LogLevel.ERROR:
            print(*self.lines, sep="\n", file=sys.stderr)
        else:
            print(self.lines[-1])
        self.lines.clear()
