import pytest
from my_authentication import Tokens

from dsfast import StartError
from dsfast.testing import LoginRefused, served, started

OPTIONS = {"tokens": {"a long secret": "alice"}}


async def test_alone():
    async with started(Tokens, OPTIONS) as tokens:
        assert (await tokens.is_valid_user({}, {"token": "a long secret"})).id == "alice"
        assert (await tokens.is_valid_user({}, {"token": "a guess"})).is_valid is False
        assert (await tokens.is_valid_user({}, {"token": 5})).is_valid is False
        assert await tokens.is_valid_user({}, {"username": "alice"}) is None


async def test_in_a_server():
    async with served({"auth": [{"class": Tokens, "options": OPTIONS}]}) as s:
        client = await s.connect({"token": "a long secret"})
        assert client.client_data == {"hello": "alice"}
        with pytest.raises(LoginRefused) as caught:
            await s.connect({"token": "a guess"})
        assert caught.value.data == {"error": "unknown token"}


async def test_wrong_options_end_the_start():
    with pytest.raises(StartError, match="option tokens: expected a mapping"):
        async with served({"auth": [{"class": Tokens}]}):
            pass
