"""Custom plugins that tell others about logins and logouts: the log, subscribers, a web service."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from dsfast.plugin import Plugin, Socket, StateTopic
from dsfast.protocol import EventAction, Message, Topic
from dsfast.services.authentication.web_client import Answer, WebClient, WebError, shown_url
from dsfast.services.storage import encode_json
from dsfast_plugins.delivery import Delivery, DeliveryRefused, NotDelivered
from dsfast_plugins.options import Milliseconds, OptionError, Options, Positive, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["LoginNotifier", "LoginWebhook"]

Text = Annotated[str, Meta(min_length=1)]
Kind = Literal["login", "logout"]

MAX_ANSWER = 1 << 20
_RETRIED = frozenset({408, 425, 429})
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class LoginPlugin(Plugin):
    """Is told about every client that logs in or is gone, and passes it on to :meth:`tell`."""

    _with_details = True

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._sessions: Counter[str] = Counter()
        self._warnings: list[str] = []

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"{self.description}: {warning}")

    def on_client_connected(self, socket: Socket) -> None:
        """See :class:`dsfast.plugin.ConnectionListener`."""
        user = socket.user_id or ""
        self._sessions[user] += 1
        self.tell(socket, self._event("login", user, socket))

    def on_client_disconnected(self, socket: Socket) -> None:
        """See :class:`dsfast.plugin.ConnectionListener`."""
        user = socket.user_id or ""
        self._sessions[user] -= 1
        if self._sessions[user] <= 0:
            del self._sessions[user]
        self.tell(socket, self._event("logout", user, socket))

    def tell(self, socket: Socket, event: dict[str, Any]) -> None:
        """Somebody has logged in or out."""
        raise NotImplementedError

    def _event(self, kind: Kind, user: str, socket: Socket) -> dict[str, Any]:
        """``sessions`` is how many connections of the user are open now."""
        event: dict[str, Any] = {
            "type": kind,
            "user": user,
            "sessions": self._sessions.get(user, 0),
            "time": int(time.time() * 1000),
        }
        if self._with_details:
            event["protocol"] = socket.socket_type
            event["address"] = socket.handshake_data.get("remoteAddress")
        return event


class LoginNotifierOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/custom.md."""

    topic: Text | None = "dsfast/logins"
    log: bool = True
    details: bool = False


class LoginNotifier(LoginPlugin):
    """Logs each login and logout, and emits it as an event, in the whole cluster."""

    description = "login notifier"

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._given, self._warnings = read_options(LoginNotifierOptions, options)

    async def when_ready(self) -> None:
        """Find those who subscribe to events."""
        if self._given.topic is not None and not self.config.enabled_features.event:
            raise OptionError("option topic: events are switched off, so it has to be null")

    def tell(self, socket: Socket, event: dict[str, Any]) -> None:
        """See :class:`LoginPlugin`."""
        if self._given.log:
            text = f"{event['user']} from {event['address']} ({event['protocol']}), {event['sessions']} open"
            self.logger.info(event["type"].upper(), text)
        if self._given.topic is None:
            return
        if not self._given.details:
            event = {key: value for key, value in event.items() if key not in ("protocol", "address")}
        message = Message(Topic.EVENT, EventAction.EMIT, name=self._given.topic, data=encode_json(event))
        registry = self.services.subscriptions.get_subscription_registry(
            Topic.EVENT, StateTopic.EVENT_SUBSCRIPTIONS
        )
        # The client counts as the sender, so that subscribers on other servers are told too.
        registry.send_to_subscribers(self._given.topic, message, False, socket)


class LoginWebhookOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/custom.md."""

    url: Text
    secret: Annotated[str, Meta(min_length=16)] | None = None
    headers: dict[str, str] = {}
    events: Annotated[tuple[Kind, ...], Meta(min_length=1)] = ("login", "logout")
    details: bool = True
    timeout: Milliseconds = 5000
    tries: Positive = 10
    retry_interval: Milliseconds = 1000
    max_batch: Annotated[int, Meta(ge=1, le=10_000)] = 100
    max_waiting: Positive = 10_000


class LoginWebhook(LoginPlugin):
    """Posts logins and logouts to a web service, in order and in batches.

    What fails is tried again; redirects are not followed. A batch may arrive twice, so every event has an
    ``id``. With ``secret`` a request is signed: the header ``X-Dsfast-Signature`` is ``t=<seconds>,v1=<hex>``
    with the HMAC-SHA256 of ``<seconds>.<body>``.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        given, self._warnings = read_options(LoginWebhookOptions, options, required=("url",))
        self._given = given
        self._with_details = given.details
        if not given.url.lower().startswith(("http://", "https://")):
            raise OptionError("option url: expected one that begins with http:// or https://")
        for name, value in given.headers.items():
            if not _HEADER.fullmatch(name) or "\n" in value or "\r" in value:
                raise OptionError(f"option headers: {name!r} cannot be sent")
        self._client = WebClient(timeout=given.timeout, max_size=MAX_ANSWER)
        self._delivery = Delivery(
            self._post, self._report, max_waiting=given.max_waiting, max_batch=given.max_batch,
            tries=given.tries, pause=given.retry_interval,
        )  # fmt: skip
        self.description = f"login webhook to {shown_url(given.url)}"

    async def when_ready(self) -> None:
        """Begin. Whether the web service is there does not matter yet."""
        self._delivery.start()

    async def close(self) -> None:
        """Send what waits, if the web service takes it at once."""
        try:
            await self._delivery.close()
        finally:
            await self._client.close()

    def tell(self, socket: Socket, event: dict[str, Any]) -> None:
        """See :class:`LoginPlugin`."""
        if event["type"] in self._given.events:
            self._delivery.put({"id": uuid.uuid4().hex, **event})

    async def _post(self, batch: Sequence[dict[str, Any]]) -> None:
        body = encode_json({"server": self.config.server_name, "events": list(batch)})
        headers = {"Content-Type": "application/json", **self._given.headers}
        if self._given.secret is not None:
            headers["X-Dsfast-Signature"] = _signature(self._given.secret, body)
        try:
            answer = await self._client.request("POST", self._given.url, body=body, headers=headers)
        except WebError as error:
            raise NotDelivered(str(error)) from None
        _judge(answer)

    def _report(self, text: str, trouble: bool) -> None:
        (self.logger.warn if trouble else self.logger.info)("LOGIN_WEBHOOK", f"{self.description}: {text}")


def _signature(secret: str, body: bytes) -> str:
    now = int(time.time())
    return f"t={now},v1={hmac.digest(secret.encode(), b'%d.' % now + body, hashlib.sha256).hex()}"


def _judge(answer: Answer) -> None:
    """Raises unless the batch was taken."""
    status = answer.status
    if 200 <= status <= 299:
        return
    text = f"answered with status {status}"
    if status in _RETRIED or status >= 500:
        raise NotDelivered(text)
    raise DeliveryRefused(f"{text}; redirects are not followed" if 300 <= status <= 399 else text)
