"""Lets in who knows one of the tokens in the options."""

import hmac

from dsfast import Authentication, AuthResult, PluginError


class Tokens(Authentication):
    description = "static tokens"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.tokens = options.get("tokens")  # {"a long secret": "alice"}
        if not isinstance(self.tokens, dict) or not self.tokens:
            raise PluginError("option tokens: expected a mapping of tokens to users")

    async def is_valid_user(self, connection_data, auth_data):
        given = auth_data.get("token")
        if given is None:
            return None  # not for me: the next authentication of the list is asked
        for token, user in self.tokens.items():
            if isinstance(given, str) and hmac.compare_digest(token.encode(), given.encode()):
                return AuthResult(True, id=user, client_data={"hello": user}, server_data={"via": "token"})
        return AuthResult(False, client_data={"error": "unknown token"})

    def on_client_disconnect(self, user_id):
        self.logger.debug("TOKENS", f"{user_id} is gone")
