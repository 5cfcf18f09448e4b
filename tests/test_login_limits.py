"""Failed logins per address (docs/authentication.md), and whose address that is behind proxies."""

import pytest
from auth_kit import HANDSHAKE, Login

from dsfast.plugin import Authentication, AuthResult
from dsfast.services.authentication.combiner import TOO_MANY_FAILED
from dsfast.services.authentication.login_limiter import LoginLimiter

PUBLIC = "192.0.2.1"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def limiter(clock, limit=3, window=30_000, **more):
    return LoginLimiter(limit, window, clock=clock, **more)


def admitted(limits, address, times=20):
    return sum(limits.admit(address) for _ in range(times))


def test_an_allowance_is_used_up_and_comes_back_evenly(clock):
    limits = limiter(clock)
    assert admitted(limits, PUBLIC) == 3
    clock.now += 9.9
    assert admitted(limits, PUBLIC) == 0
    clock.now += 0.2
    assert admitted(limits, PUBLIC) == 1
    clock.now += 1e6
    assert admitted(limits, PUBLIC) == 3


def test_success_costs_nothing(clock):
    limits = limiter(clock)
    for _ in range(50):
        assert limits.admit(PUBLIC)
        limits.give_back(PUBLIC)
    assert admitted(limits, PUBLIC) == 3
    # Giving back what was not taken is no stock.
    for _ in range(50):
        limits.give_back(PUBLIC)
    assert admitted(limits, PUBLIC) == 3


def test_addresses_do_not_pay_for_each_other(clock):
    limits = limiter(clock)
    assert admitted(limits, PUBLIC) == 3
    assert admitted(limits, "192.0.2.2") == 3


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("a socket", "a socket", True),
    ],
)
def test_what_counts_as_one_address(clock, first, second, same):
    limits = limiter(clock)
    admitted(limits, first)
    assert admitted(limits, second) == (0 if same else 3)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None, ""])
def test_loopback_and_unknown_addresses_are_not_limited(clock, address):
    assert admitted(limiter(clock), address, 1000) == 1000


def test_without_a_limit(clock):
    limits = limiter(clock, limit=None)
    assert admitted(limits, PUBLIC, 1000) == 1000
    limits.give_back(PUBLIC)
    assert not limits.is_news(PUBLIC)


def test_the_table_is_bounded_and_forgets_who_was_seen_longest_ago(clock):
    limits = limiter(clock, max_addresses=10)
    for number in range(1000):
        admitted(limits, f"198.51.{number // 250}.{number % 250}")
        assert admitted(limits, PUBLIC, 1) == (number < 3)
    assert len(limits._allowances) == 10


def test_a_refusal_is_news_once(clock):
    limits = limiter(clock)
    admitted(limits, PUBLIC)
    assert limits.is_news(PUBLIC)
    assert not limits.is_news(PUBLIC)
    clock.now += 10
    admitted(limits, PUBLIC)
    assert not limits.is_news(PUBLIC)
    clock.now += 100
    admitted(limits, PUBLIC)
    assert limits.is_news(PUBLIC)


# --- in the combiner --------------------------------------------------------------------

CONFIG = {"login": {"maxFailedLogins": 3, "failedLoginWindow": 3_600_000}}
AUTH = {"type": "file", "options": {"users": {"peter": {"password": "secret"}}}}
RIGHT = {"username": "peter", "password": "secret"}
WRONG = {"username": "peter", "password": "guess"}
LIMITED = AuthResult(False, client_data={"error": TOO_MANY_FAILED})


async def test_who_fails_too_often_is_refused_even_with_the_right_password():
    async with Login(AUTH, CONFIG) as login:
        for _ in range(10):
            assert (await login(RIGHT)).is_valid
        assert [await login(WRONG) for _ in range(4)] == [AuthResult(False)] * 3 + [LIMITED]
        assert await login(RIGHT) == LIMITED
        assert (await login(RIGHT, {**HANDSHAKE, "remoteAddress": "192.0.2.99"})).is_valid
        assert [line for line in login.log.lines if line.startswith("TOO_MANY")] == [
            "TOO_MANY_AUTH_ATTEMPTS 192.0.2.1: too many failed logins, more are refused for a while"
        ]


async def test_unknown_users_and_missing_parameters_are_failures_too():
    async with Login(AUTH, CONFIG) as login:
        await login({"username": "nobody", "password": "x"})
        await login({})
        await login([])
        assert await login(RIGHT) == LIMITED


class Broken(Authentication):
    description = "broken"

    async def is_valid_user(self, connection_data, auth_data):
        raise RuntimeError("down")


async def test_a_broken_authentication_does_not_lock_anybody_out():
    async with Login({"class": Broken}, CONFIG) as login:
        assert [await login({}) for _ in range(10)] == [AuthResult(False)] * 10


async def test_logins_of_unknown_origin_are_not_limited():
    async with Login(AUTH, CONFIG) as login:
        handshake = {"headers": {}, "url": "/api"}
        assert [await login(WRONG, handshake) for _ in range(9)] == [AuthResult(False)] * 9


@pytest.mark.parametrize("switched_off", [None, False])
async def test_the_limit_can_be_switched_off(switched_off):
    async with Login(AUTH, {"login": {"maxFailedLogins": switched_off}}) as login:
        assert [await login(WRONG) for _ in range(300)] == [AuthResult(False)] * 300
