"""The open login and the combiner."""

import asyncio

import pytest

from dsfast.config import load
from dsfast.plugin import UNSET, Authentication, AuthResult, Logger
from dsfast.services import Services
from dsfast.services.authentication import AuthenticationCombiner, OpenAuthentication


class Lines(Logger):
    def init(self):
        self.lines = []

    def log(self, level, event, message, meta=None):
        self.lines.append(f"{event} {message}")


@pytest.fixture
def config():
    return load()


@pytest.fixture
def services(config):
    services = Services()
    services.logger = Lines({}, services, config)
    services.logger.init()
    return services


class Fixed(Authentication):
    """Answers what it was given; an exception is raised."""

    description = "fixed"

    def __init__(self, answer, services, config):
        super().__init__({}, services, config)
        self.answer = answer
        self.asked = 0
        self.calls = []

    def init(self):
        self.calls.append("init")

    async def when_ready(self):
        self.calls.append("ready")

    async def close(self):
        self.calls.append("close")
        if isinstance(self.answer, Exception):
            raise self.answer

    async def is_valid_user(self, connection_data, auth_data):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def on_client_disconnect(self, user_id):
        self.calls.append(user_id)
        if isinstance(self.answer, Exception):
            raise self.answer


class Never(Authentication):
    description = "never"

    async def is_valid_user(self, connection_data, auth_data):
        await asyncio.Event().wait()


@pytest.fixture
def combine(services, config):
    def make(*answers):
        entries = [
            answer if isinstance(answer, Authentication) else Fixed(answer, services, config)
            for answer in answers
        ]
        return AuthenticationCombiner(entries, services, config)

    return make


@pytest.mark.parametrize(
    ("auth_data", "user_id"),
    [
        ({}, "open"),
        (None, "open"),
        ([], "open"),
        ("text", "open"),
        ({"username": "peter"}, "peter"),
        ({"username": ""}, "open"),
        ({"username": None}, "open"),
        ({"username": False}, "open"),
        ({"username": True}, "true"),
        ({"username": 0}, "open"),
        ({"username": float("nan")}, "open"),
        ({"username": 5}, "5"),
        ({"username": 5.0}, "5"),
        ({"username": -0.5}, "-0.5"),
        ({"username": 1e20}, "100000000000000000000"),
        ({"username": 1e21}, "1e+21"),
        ({"username": 1.25e25}, "1.25e+25"),
        ({"username": 0.0000015}, "0.0000015"),
        ({"username": 1e-7}, "1e-7"),
        ({"username": -1e-5}, "-0.00001"),
        ({"username": 10**400}, "Infinity"),
        ({"username": -(10**400)}, "-Infinity"),
        ({"username": {"toString": 1}}, "open"),
        ({"username": ["peter"]}, "open"),
    ],
)
async def test_open_login_never_fails_and_takes_the_name_it_is_given(services, config, auth_data, user_id):
    result = await OpenAuthentication({}, services, config).is_valid_user({}, auth_data)
    assert result == AuthResult(True, id=user_id)
    assert result.client_data is UNSET


async def test_the_first_answer_counts(combine):
    yes, no = AuthResult(True, id="a"), AuthResult(False, client_data={"error": "x"})
    assert await combine(None, yes, no).is_valid_user({}, {}) is yes
    refusing = combine(no, yes)
    assert await refusing.is_valid_user({}, {}) is no
    assert refusing.entries[1].asked == 0


async def test_nobody_knows_the_user(combine):
    assert await combine(None, None).is_valid_user({}, {}) == AuthResult(False)


@pytest.mark.parametrize(
    "answer",
    [RuntimeError("boom"), TimeoutError("own"), RecursionError(), "yes", True, {}, AuthResult(True, id=5)],
)
async def test_whatever_goes_wrong_in_a_plugin_refuses_the_login(combine, services, answer):
    combiner = combine(answer, AuthResult(True, id="a"))
    assert await combiner.is_valid_user({}, {}) == AuthResult(False)
    assert combiner.entries[1].asked == 0
    assert len(services.logger.lines) == 1
    assert services.logger.lines[0].startswith("AUTH_ERROR fixed: ")


async def test_a_plugin_that_never_answers_refuses_the_login(combine, services, config):
    config.authentication_timeout = 1
    assert await combine(Never({}, services, config)).is_valid_user({}, {}) == AuthResult(False)
    assert services.logger.lines == ["AUTH_ERROR never: no answer within 1 ms"]


async def test_a_cancelled_check_stays_cancelled(combine, services, config):
    checking = asyncio.create_task(combine(Never({}, services, config)).is_valid_user({}, {}))
    await asyncio.wait([checking], timeout=0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking


async def test_everybody_is_told_about_the_life_cycle(combine, services):
    combiner = combine(RuntimeError("boom"), None)
    combiner.init()
    await combiner.when_ready()
    combiner.on_client_disconnect("peter")
    with pytest.raises(RuntimeError, match="boom"):
        await combiner.close()
    for entry in combiner.entries:
        assert entry.calls == ["init", "ready", "peter", "close"]
    assert len(services.logger.lines) == 1
    assert services.logger.lines[0].startswith("PLUGIN_ERROR fixed failed")


def test_descriptions(combine):
    assert combine(None).description == "fixed"
    assert combine(None, None).description == "\n\t0) fixed\n\t1) fixed"


def test_the_open_login_can_be_recognised(combine, services, config):
    class Subclass(OpenAuthentication):
        pass

    assert combine(OpenAuthentication({}, services, config)).is_open
    assert not combine(Subclass({}, services, config)).is_open
    assert not combine(None, OpenAuthentication({}, services, config)).is_open
