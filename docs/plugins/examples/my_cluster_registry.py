"""A cluster whose servers are listed in the configuration."""

from dsfast.plugin import ClusterRegistry, PluginError


class FixedCluster(ClusterRegistry):
    description = "fixed list"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        servers = options.get("servers")
        if not isinstance(servers, list) or config.server_name not in servers:
            raise PluginError("option servers: expected a list of names with that of this server in it")
        self.servers = servers

    def get_all(self):
        return list(self.servers)

    def get_leader(self):
        return min(self.servers)  # all servers have to come to the same answer

    def on_server_added(self, callback):
        pass  # nobody ever comes

    def on_server_removed(self, callback):
        pass  # and nobody goes
