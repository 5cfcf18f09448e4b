"""What every authentication plugin has to do (plugins.md B.2, connection-and-auth.md section 4)."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast._core.json_text import dumps
from dsfast.plugin import UNSET, Authentication, AuthResult, PluginError
from dsfast.testing.plugins import started

__all__ = ["AuthenticationConformance"]

NONSENSE: tuple[dict[str, Any], ...] = (
    {}, {"username": None}, {"username": ""}, {"username": 5, "password": 6},
    {"username": [], "password": {}},
    {"username": "x" * 100_000, "password": "y" * 100_000}, {"username": "\x00", "password": "\ud800"},
    {"username": "__proto__", "password": "constructor"}, {"token": None}, {"token": 0}, {"token": ["a"]},
    {"token": {"a": {"b": []}}}, {"": ""}, {"username": "../../etc/passwd", "password": "' OR 1=1 --"},
    {"username": True, "password": False, "token": True},
)  # fmt: skip
"""Login data are any JSON object that a client likes to send."""

CONNECTION: Mapping[str, Any] = {"remoteAddress": "127.0.0.1", "headers": {}, "referer": None}


class AuthenticationConformance:
    """Subclass it, name the class in ``plugin_class``, give its options and a login that it accepts."""

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[Authentication]]
    lets_everybody_in: ClassVar[bool] = False
    """True for those that accept login data whatever they are."""

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest.fixture
    def login(self) -> Mapping[str, Any]:
        """Login data that are accepted; has to be overridden."""
        raise NotImplementedError("an AuthenticationConformance needs a fixture `login`")

    @pytest.fixture
    def refused_logins(self) -> list[Mapping[str, Any]]:
        """Login data that are not accepted, beside nonsense of every kind."""
        return []

    @pytest_asyncio.fixture
    async def authentication(self, options: Mapping[str, Any]) -> AsyncIterator[Authentication]:
        """The plugin, ready."""
        async with started(self.plugin_class, options) as authentication:
            yield authentication

    async def test_describes_itself(self, authentication: Authentication) -> None:
        assert authentication.description

    async def test_the_login_is_accepted(
        self, authentication: Authentication, login: Mapping[str, Any]
    ) -> None:
        for _ in range(2):
            result = _checked(await authentication.is_valid_user(CONNECTION, login))
            assert result is not None and result.is_valid

    async def test_what_it_is_given_stays_as_it_is(
        self, authentication: Authentication, login: Mapping[str, Any]
    ) -> None:
        """Other plugins are asked about the same objects."""
        given, connection = copy.deepcopy(dict(login)), copy.deepcopy(dict(CONNECTION))
        await authentication.is_valid_user(connection, given)
        assert given == login and connection == CONNECTION

    @pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
    async def test_nonsense_is_refused_without_an_exception(
        self, authentication: Authentication, data: Mapping[str, Any]
    ) -> None:
        try:
            result = _checked(await authentication.is_valid_user(CONNECTION, data))
        except PluginError:
            return
        assert self.lets_everybody_in or result is None or not result.is_valid

    async def test_the_other_logins_are_refused(
        self, authentication: Authentication, refused_logins: list[Mapping[str, Any]]
    ) -> None:
        for data in refused_logins:
            result = _checked(await authentication.is_valid_user(CONNECTION, data))
            assert result is None or not result.is_valid, data

    async def test_many_at_the_same_time(
        self, authentication: Authentication, login: Mapping[str, Any]
    ) -> None:
        asked = [authentication.is_valid_user(CONNECTION, login if i % 2 else {}) for i in range(40)]
        results = await asyncio.gather(*asked)
        assert all(result is not None and result.is_valid for result in results[1::2])
        if not self.lets_everybody_in:
            assert not any(result is not None and result.is_valid for result in results[::2])

    async def test_a_client_that_gives_up_harms_nobody(
        self, authentication: Authentication, login: Mapping[str, Any]
    ) -> None:
        tasks = [asyncio.ensure_future(authentication.is_valid_user(CONNECTION, login)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, AuthResult) and result.is_valid for result in results[1:])

    async def test_it_may_be_told_of_users_it_does_not_know(self, authentication: Authentication) -> None:
        for user in ("nobody", "", "\x00"):
            authentication.on_client_disconnect(user)

    async def test_close_without_a_start_and_twice(
        self, options: Mapping[str, Any], authentication: Authentication
    ) -> None:
        other = self.plugin_class(options, authentication.services, authentication.config)
        other.init()
        await other.close()
        await other.close()


def _checked(result: AuthResult | None) -> AuthResult | None:
    """The answer of a plugin, which has to be one that the server can use."""
    if result is None:
        return None
    assert isinstance(result, AuthResult)
    assert isinstance(result.is_valid, bool)
    assert result.id is None or isinstance(result.id, str)
    assert result.token is None or isinstance(result.token, str)
    assert result.expires is None or (
        isinstance(result.expires, int | float) and math.isfinite(result.expires)
    )
    if result.client_data is not UNSET:
        dumps(result.client_data)  # goes to the client
    return result
