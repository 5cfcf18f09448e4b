"""The compiled core: codec, connections, fan-out and the hot half of the handlers."""
