"""Names of this server, counted: the simplest state registry that is right."""

from dsfast.plugin import StateRegistry, StateRegistryFactory


class Counted(StateRegistry):
    def __init__(self, server_name, logger):
        self.server_name = server_name
        self.logger = logger
        self.counts = {}
        self.added, self.removed = [], []

    def has(self, name):
        return name in self.counts

    def get_all(self, server=None):
        return list(self.counts) if server in (None, self.server_name) else []

    def get_all_servers(self, name):
        return [self.server_name] if name in self.counts else []

    def add(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] == 1:
            self.tell(self.added, name)

    def remove(self, name):
        if name not in self.counts:
            return
        self.counts[name] -= 1
        if not self.counts[name]:
            del self.counts[name]
            self.tell(self.removed, name)

    def on_add(self, callback):
        self.added.append(callback)

    def on_remove(self, callback):
        self.removed.append(callback)

    def tell(self, callbacks, name):
        for callback in callbacks:
            try:
                callback(name)
            except Exception as error:  # one that fails must not keep the others from being told
                self.logger.error("PLUGIN_ERROR", f"state registry: {error!r}")


class CountedStates(StateRegistryFactory):
    description = "single server, in Python"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.registries = {}

    def get_state_registry(self, topic):
        if topic not in self.registries:
            self.registries[topic] = Counted(self.config.server_name, self.logger)
        return self.registries[topic]

    def get_state_registries(self):
        return self.registries
