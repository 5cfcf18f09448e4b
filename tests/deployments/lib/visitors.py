"""The plugin of a deployment: keeps who is here."""

from dsfast import Plugin


class Visitors(Plugin):
    """Counts logins."""

    description = "visitors"

    def init(self) -> None:
        """Nobody is here yet."""
        self.users: list[str | None] = []

    def on_client_connected(self, socket):  # type: ignore[no-untyped-def]
        """Somebody came."""
        self.users.append(socket.user_id)

    def on_client_disconnected(self, socket):  # type: ignore[no-untyped-def]
        """Somebody left."""
        self.users.remove(socket.user_id)
