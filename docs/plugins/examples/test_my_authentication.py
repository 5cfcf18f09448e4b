import pytest
from my_authentication import Tokens

from dsfast import StartError
from dsfast.testing import AuthenticationConformance, LoginRefused, served

OPTIONS = {"tokens": {"a long secret": "alice"}}


class TestTokens(AuthenticationConformance):
    """What every authentication has to do: many logins at once, nonsense of every kind, ..."""

    plugin_class = Tokens

    @pytest.fixture
    def options(self):
        return OPTIONS

    @pytest.fixture
    def login(self):
        return {"token": "a long secret"}

    @pytest.fixture
    def refused_logins(self):
        return [{"token": "a guess"}, {"token": "A LONG SECRET"}, {"username": "alice"}]


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
