from dsfast import Permission


class OwnNames(Permission):
    description = "user id in the name"

    def can_perform_action(self, socket, message):
        return message.name is None or socket.user_id in message.name.split("/")
