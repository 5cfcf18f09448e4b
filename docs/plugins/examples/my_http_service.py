"""The built-in HTTP service, with a page of its own and fewer websites that may open websockets."""

from dsfast.plugin import HttpError
from dsfast.services.http_service import HttpService


class OfficeHttp(HttpService):
    description = "HTTP for the office"

    def init(self):
        super().init()
        self.register_get_path_prefix("/about", self.about)
        self.register_post_path_prefix("/echo", self.echo)

    def origin_allowed(self, headers):
        """Called before each upgrade; programs send no origin."""
        origin = headers.get("origin")
        return super().origin_allowed(headers) and (origin is None or origin.endswith(".example.org"))

    def about(self, meta):
        return {"server": self.config.server_name}

    async def echo(self, data, meta):
        if not isinstance(data, dict):
            raise HttpError(400, "expected an object")
        return {"you sent": data, "as": meta.headers.get("user-agent")}
