# ruff: noqa: E501
# fmt: off
"""Breaches of the contract. What mypy finds is behind M, what pyright finds behind P."""

from collections.abc import Mapping
from typing import Any

from dsfast import (
    Authentication,
    AuthResult,
    Cache,
    ClusterNode,
    Config,
    HttpMeta,
    LockRegistry,
    Permission,
    StateRegistryFactory,
    SubscriptionRegistry,
)
from dsfast.protocol import Message
from dsfast.services import Services


class Synchronous(Authentication):
    def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:  # M: override P: reportIncompatibleMethodOverride
        return None


class Half(Cache):
    async def get(self, name: str) -> tuple[int, Any]:
        return -1, None


class Text(Permission):
    def can_perform_action(self, socket: Any, message: Any) -> str:  # M: override P: reportIncompatibleMethodOverride
        return "no"


class Patient(LockRegistry):
    def get(self, name: str) -> bool:  # M: override P: reportIncompatibleMethodOverride
        return True

    async def release(self, name: str) -> None: ...  # M: override P: reportIncompatibleMethodOverride


class Numbers(ClusterNode):
    def send(self, message: int) -> None: ...  # M: override P: reportIncompatibleMethodOverride

    def send_direct(self, server_name: str, message: Mapping[str, Any]) -> None: ...

    def subscribe(self, topic: int, callback: int) -> None: ...  # M: override P: reportIncompatibleMethodOverride


def make(services: Services, config: Config, registry: SubscriptionRegistry, message: Message) -> None:
    Half({}, services, config)  # M: abstract P: reportAbstractUsage
    StateRegistryFactory({}, services, config)  # M: abstract P: reportAbstractUsage
    AuthResult("yes")  # M: arg-type P: reportArgumentType
    print(config.rpc.ack_timout)  # M: attr-defined P: reportAttributeAccessIssue
    print(services.lock)  # M: attr-defined P: reportAttributeAccessIssue
    registry.send_to_subscribers("a", message, False, "socket")  # M: arg-type P: reportArgumentType
    services.http_service.register_get_path_prefix("/a", lambda data, meta: 1)  # M: arg-type,misc P: reportArgumentType


def handler(meta: HttpMeta) -> int:
    return meta.url  # M: return-value P: reportReturnType
