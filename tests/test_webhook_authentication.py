"""Authentication ``http`` against a real web server (connection-and-auth.md section 5.4)."""

import asyncio
import gzip
import json

import pytest
from auth_kit import HANDSHAKE, Login
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import (
    WebServer,
    answer,
    as_json,
    dripping,
    endless,
    garbage,
    half,
    hang_up,
    silence,
    stalled,
)
from wire import ACCEPT, CHALLENGE, auth_request, serve

from dsfast._core.protocol import AuthAction, Topic
from dsfast.config import ConfigError, load
from dsfast.plugin import UNSET, AuthResult, PluginError

DATA = {"username": "peter", "password": "hush", "n": 1}
WELCOME = answer(200, "peter", "text/plain")
EXCEEDED = AuthResult(False, client_data={"error": "AUTH_RETRY_ATTEMPTS_EXCEEDED"})
OTHER = {"type": "file", "options": {"users": {"peter": {"password": "hush"}}}}


def hook(url, others=(), **options):
    given = {
        "endpointUrl": url,
        "permittedStatusCodes": [200, 201],
        "requestTimeout": 2000,
        "retryInterval": 0,
        **options,
    }
    return Login([{"type": "http", "options": given}, *others])


async def answered(raw, data=DATA, **options):
    """The result of one login that is answered so, and the warnings."""
    async with WebServer(raw) as web, hook(web.url, **options) as login:
        return await login(data), login.warnings()


# --- the request ------------------------------------------------------------------------


async def test_what_is_asked():
    handshake = {"remoteAddress": "192.0.2.1", "headers": {"cookie": "a=1", "x": "ü"}, "referer": None}
    async with WebServer(WELCOME) as web, hook(web.url) as login:
        assert login.combiner.description == f"http webhook to {web.url}"
        assert (await login(DATA, handshake)).id == "peter"
        (request,) = web.requests
        assert (request.method, request.path) == ("POST", "/hook?a=1")
        assert request.headers["content-type"] == "application/json; charset=utf-8"
        assert request.headers["accept"] == "application/json"
        # What is undefined in JavaScript is absent in JSON.
        assert request.json() == {
            "connectionData": {"remoteAddress": "192.0.2.1", "headers": {"cookie": "a=1", "x": "ü"}},
            "authData": DATA,
        }


async def test_connections_are_kept_and_cookies_are_not():
    raw = answer(200, "peter", "text/plain", Set_Cookie="session=of-another-user")
    async with WebServer(raw) as web, hook(web.url) as login:
        for _ in range(5):
            assert (await login(DATA)).is_valid
        assert web.connections == 1
        assert len(web.requests) == 5
        assert not any("cookie" in request.headers for request in web.requests)


async def test_logins_at_the_same_time_do_not_wait_for_each_other():
    async with WebServer(silence, answer(200, "b", "text/plain")) as web, hook(web.url) as login:
        first = asyncio.create_task(login(DATA))
        await asyncio.wait_for(web.came.wait(), 20)
        assert (await login(DATA)).id == "b"
        assert not first.done()
        first.cancel()


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("abc", "abc"),
        ("grün", "grün"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        ("", None),
        (0, None),
        (False, None),
        (None, None),
        ({"a": 1}, None),
        ([1], None),
    ],
)
async def test_promoted_values_are_sent_as_headers_and_stay_in_the_body(value, header):
    async with WebServer(WELCOME) as web:
        async with hook(web.url, promoteToHeader=["X-Token", "absent"]) as login:
            assert (await login({"X-Token": value})).is_valid
        (request,) = web.requests
        sent = request.headers.get("x-token")
        assert (sent and sent.encode("latin-1").decode()) == header
        assert "absent" not in request.headers
        assert request.json()["authData"] == {"X-Token": value}


@pytest.mark.parametrize("value", ["a\r\nX-Admin: yes", "a\nb", "a\0b", "\x7f"])
async def test_a_promoted_value_cannot_make_headers(value):
    async with WebServer(WELCOME) as web:
        async with hook(web.url, promoteToHeader=["authorization"]) as login:
            assert await login({"authorization": value}) == AuthResult(False)
        assert web.requests == []


@pytest.mark.parametrize("name", ["Content-Length", "host", "Transfer-Encoding", "accept", "a b", "", "ä"])
def test_headers_that_cannot_be_promoted(name):
    with pytest.raises(PluginError, match="cannot set the header"):
        hook("http://localhost/", promoteToHeader=[name]).build()


# --- the answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (WELCOME, AuthResult(True, id="peter")),
        (answer(201, "päter", "text/plain; charset=utf-8"), AuthResult(True, id="päter")),
        (
            answer(200, "p\xe4ter".encode("latin-1"), "text/plain; charset=latin1"),
            AuthResult(True, id="päter"),
        ),
        (answer(200, b"p\xff", "text/plain; charset=nonsense"), AuthResult(True, id="p\ufffd")),
        (answer(200, '{"id":"x"}', "text/plain"), AuthResult(True, id='{"id":"x"}')),
        (answer(200, "not json", "application/json"), AuthResult(True, id="not json")),
        (answer(200, '"quoted"', "application/json"), AuthResult(True, id="quoted")),
        (as_json({"id": "peter"}), AuthResult(True, id="peter")),
        (as_json({"id": 7}), AuthResult(True, id="7")),
        (
            as_json({"id": "a", "clientData": {"b": 1}, "serverData": [2], "token": "t", "more": 3}),
            AuthResult(True, id="a", client_data={"b": 1}, server_data=[2], token="t"),
        ),
        (as_json({"id": "a", "clientData": None}), AuthResult(True, id="a", client_data=None)),
        (answer(200, '{"id":"x"}', "application/problem+json"), AuthResult(True, id="x")),
        (as_json({"id": "a", "isValid": True}), AuthResult(True, id="a")),
        (as_json({"id": "a", "isValid": []}), AuthResult(True, id="a")),
        (as_json({"id": "a", "isValid": False}), AuthResult(False)),
        (as_json({"id": "a", "isValid": 0}), AuthResult(False)),
        (as_json({"isValid": None, "clientData": {"e": 1}}), AuthResult(False, client_data={"e": 1})),
    ],
)
async def test_permitted_answers(raw, expected):
    assert await answered(raw) == (expected, [])


@pytest.mark.parametrize(
    "raw",
    [
        answer(200),
        answer(200, "", "text/plain"),
        answer(200, "peter"),
        answer(200, "peter", "application/octet-stream"),
        as_json({}),
        as_json([]),
        as_json(None),
        as_json(5),
        as_json({"username": "peter"}),
        as_json({"id": ""}),
        as_json({"id": None}),
    ],
)
async def test_a_permitted_answer_without_an_id_is_told(raw):
    result, warnings = await answered(raw)
    assert result.is_valid and not result.id
    assert result.client_data is UNSET
    assert warnings == ["http auth: a permitted answer has no id, so the user is OPEN"]


@pytest.mark.parametrize("user_id", [{"a": 1}, ["peter"], True])
async def test_an_id_that_is_no_id_refuses(user_id):
    result, warnings = await answered(as_json({"id": user_id}))
    assert result == AuthResult(False)
    assert "refused, since the id in the answer is of type" in warnings[0]


@pytest.mark.parametrize(
    ("raw", "client_data"),
    [
        (answer(401), UNSET),
        (answer(401, "", "text/plain"), UNSET),
        (answer(401, "go away", "text/plain"), {"error": "go away"}),
        (answer(401, "go away", "application/json"), {"error": "go away"}),
        (answer(401, "go away"), UNSET),
        (as_json({"reason": "locked", "until": 3}, 403), {"reason": "locked", "until": 3}),
        (as_json({}, 403), UNSET),
        (as_json([1], 403), UNSET),
        (as_json(7, 403), UNSET),
        (as_json({"isValid": True, "id": "peter"}, 404), {"isValid": True, "id": "peter"}),
        (answer(204), UNSET),
    ],
)
async def test_refusals(raw, client_data):
    assert await answered(raw) == (AuthResult(False, client_data=client_data), [])


async def test_an_answer_of_the_server_that_it_is_broken_is_told():
    result, warnings = await answered(as_json({"oh": "no"}, 503))
    assert result == AuthResult(False, client_data={"oh": "no"})
    assert warnings == ['http auth server error: {"oh":"no"}']
    _, warnings = await answered(answer(500, "x" * 100_000, "text/html"))
    assert len(warnings[0]) < 600


async def test_a_broken_server_may_be_permitted():
    result, warnings = await answered(as_json({"id": "peter"}, 500), permittedStatusCodes=[500])
    assert result.id == "peter"
    assert len(warnings) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_lets_nobody_in(status):
    """Upstream follows it with a GET, so that a login page, which answers 200, logs everybody in."""
    async with WebServer(answer(200, "everybody", "text/plain")) as page:
        raw = answer(status, Location=page.url)
        assert await answered(raw) == (AuthResult(False), [])
        result, warnings = await answered(raw, permittedStatusCodes=[200, status])
        assert result == AuthResult(False)
        assert warnings == ["http auth: redirects are never permitted, whatever permittedStatusCodes says"]
        assert page.requests == []


async def test_a_compressed_answer():
    raw = answer(200, gzip.compress(b"peter"), "text/plain", Content_Encoding="gzip")
    assert (await answered(raw))[0].id == "peter"


# --- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize("fault", [hang_up, half, garbage], ids=lambda fault: fault.__name__)
async def test_an_answer_that_is_none_is_tried_again(fault):
    async with WebServer(fault, WELCOME) as web:
        async with hook(web.url, retryAttempts=1) as login:
            assert (await login(DATA)).id == "peter"
            (warning,) = login.warnings()
            assert warning.startswith("http auth error: ")
            assert "hush" not in warning
        assert len(web.requests) == 2


@pytest.mark.parametrize("fault", [silence, stalled, dripping], ids=lambda fault: fault.__name__)
async def test_an_answer_that_takes_too_long_is_tried_again(fault):
    options = {"retryAttempts": 1, "requestTimeout": 500}
    async with WebServer(fault, WELCOME) as web, hook(web.url, **options) as login:
        assert (await login(DATA)).id == "peter"
        assert login.warnings() == ["http auth error: no answer within 500 ms"]


@pytest.mark.parametrize(
    "fault",
    [
        endless,
        answer(200, "x" * 2000, "text/plain"),
        answer(200, gzip.compress(b"x" * 10**6), "text/plain", Content_Encoding="gzip"),
    ],
    ids=["endless", "long", "bomb"],
)
async def test_an_answer_that_is_too_large(fault):
    result, warnings = await answered(fault, maxResponseSize=1000)
    assert result == EXCEEDED
    assert warnings == ["http auth error: the answer is larger than 1000 bytes"]


async def test_nobody_listens():
    async with WebServer(b"") as web:
        url = web.url
    async with hook(url, retryAttempts=2) as login:
        assert await login(DATA) == EXCEEDED
        assert len(login.warnings()) == 3
    async with hook(url, [OTHER], retryAttempts=2) as login:
        assert (await login(DATA)).is_valid
        assert login.warnings()[-1] == "AUTH_RETRY_ATTEMPTS_EXCEEDED"


async def test_retries_come_after_the_first_request():
    async with WebServer(answer(503)) as web:
        async with hook(web.url, retryAttempts=2, retryStatusCodes=[503]) as login:
            assert await login(DATA) == EXCEEDED
        assert len(web.requests) == 3
    async with WebServer(answer(503)) as web:
        async with hook(web.url, retryStatusCodes=[503]) as login:
            assert await login(DATA) == EXCEEDED
        assert len(web.requests) == 1


async def test_a_retry_goes_before_a_permission():
    second = answer(201, "second", "text/plain")
    options = {"retryAttempts": 1, "retryStatusCodes": [200]}
    async with WebServer(WELCOME, second) as web, hook(web.url, **options) as login:
        assert (await login(DATA)).id == "second"


async def test_there_is_a_pause_before_each_retry(monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def pause(seconds):
        if seconds == 1.234:
            pauses.append(seconds)
            seconds = 0
        await sleep(seconds)

    monkeypatch.setattr("dsfast.services.authentication.webhook.asyncio.sleep", pause)
    options = {"retryAttempts": 3, "retryStatusCodes": [500], "retryInterval": 1234}
    async with WebServer(answer(500)) as web, hook(web.url, **options) as login:
        assert await login(DATA) == EXCEEDED
    assert pauses == [1.234] * 3


async def test_the_next_entry_is_asked_when_the_service_says_no():
    async with WebServer(answer(401, "no", "text/plain")) as web:
        async with hook(web.url, [OTHER]) as login:
            assert (await login(DATA)).id == "peter"
        async with hook(web.url, [OTHER], reportInvalidParameters=True) as login:
            assert await login(DATA) == AuthResult(False, client_data={"error": "no"})
        async with hook(web.url, reportInvalidParameters=False) as login:
            assert await login(DATA) == AuthResult(False)


async def test_the_service_can_say_no_for_good():
    async with WebServer(as_json({"isValid": False})) as web, hook(web.url, [OTHER]) as login:
        assert await login(DATA) == AuthResult(False)


async def test_many_troubles_are_few_lines():
    async with WebServer(answer(500)) as web, hook(web.url) as login:
        for _ in range(50):
            await login(DATA, {**HANDSHAKE, "remoteAddress": "127.0.0.1"})
        assert len([line for line in login.log.lines if "server error" in line]) == 10


async def test_closing_ends_a_login_that_waits():
    async with WebServer(silence) as web:
        login = hook(web.url)
        async with login:
            task = asyncio.create_task(login(DATA))
            await asyncio.wait_for(web.came.wait(), 20)
        assert await asyncio.wait_for(task, 20) == EXCEEDED
        assert await login(DATA) == EXCEEDED
        assert login.warnings()[-1] == "http auth error: the server is stopping"


# --- settings ---------------------------------------------------------------------------


def test_the_options_that_old_files_leave_out_have_defaults():
    (entry,) = load(
        {
            "auth": {
                "type": "http",
                "options": {
                    "endpointUrl": "https://auth.example/check",
                    "permittedStatusCodes": [200],
                    "requestTimeout": 2000,
                },
            }
        }
    ).auth
    options = entry.options
    assert (options.retry_status_codes, options.retry_attempts, options.retry_interval) == ([], 0, 5000)


@pytest.mark.parametrize("missing", ["endpointUrl", "permittedStatusCodes", "requestTimeout"])
def test_what_is_required(missing):
    options = {"endpointUrl": "http://a", "permittedStatusCodes": [200], "requestTimeout": 1}
    del options[missing]
    with pytest.raises(ConfigError, match=f"Property {missing} is required"):
        load({"auth": {"type": "http", "options": options}})


@pytest.mark.parametrize("url", ["", "auth.example", "ftp://auth.example", "http://", "/check", "http:///x"])
def test_a_url_without_a_host(url):
    with pytest.raises(ConfigError, match="endpointUrl"):
        hook(url)


async def test_passwords_in_the_url_are_not_shown():
    async with hook("http://user:hush@localhost:1/x") as login:
        assert login.combiner.description == "http webhook to http://localhost:1/x"
        assert await login(DATA) == EXCEEDED
        assert "hush" not in repr(login.log.lines)


async def test_tries_that_take_longer_than_a_login_may():
    async with hook("http://localhost:1", requestTimeout=30_000, retryAttempts=2) as login:
        assert login.warnings() == [
            "http auth: all tries may take 90000 ms, but authenticationTimeout ends them after 60000 ms"
        ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = dict.fromkeys(("id", "isValid", "clientData", "serverData", "token"), JSON)


@given(JSON | st.fixed_dictionaries({}, optional=KEYS), st.sampled_from([200, 401, 500]), JSON)
@settings(deadline=None, max_examples=60)
def test_any_json_may_be_asked_and_answered(content, status, data):
    async def run():
        raw = answer(status, json.dumps(content), "application/json")
        async with WebServer(raw) as web, hook(web.url, promoteToHeader=["token"]) as login:
            result = await login(data)
            assert isinstance(result, AuthResult)
            assert not [line for line in login.log.lines if "Error:" in line]

    asyncio.run(run())


# --- over the wire ----------------------------------------------------------------------


async def test_a_cookie_logs_in_and_the_service_says_who_it_is():
    """The pattern for tokens in cookies (section 5.5): the client logs in without parameters."""
    raw = as_json({"id": "peter", "clientData": {"hello": 1}, "serverData": {"role": "x"}})
    async with WebServer(raw) as web:
        options = {"endpointUrl": web.url, "permittedStatusCodes": [200], "requestTimeout": 2000}
        async with serve({"auth": {"type": "http", "options": options}}) as s:
            client = await s.websocket(Cookie="jwt=hush", Referer="http://page/")
            client.send(CHALLENGE)
            assert await client.payload() == ACCEPT
            client.send(auth_request(b"{}"))
            await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b'{"hello":1}')
            assert s.connection("peter").server_data == {"role": "x"}
            (request,) = web.requests
            asked = request.json()
            assert asked["authData"] == {}
            assert asked["connectionData"]["headers"]["cookie"] == "jwt=hush"
            assert asked["connectionData"]["referer"] == "http://page/"
            assert "hush" not in repr(s.log.lines)
