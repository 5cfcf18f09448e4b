"""Authentication ``file`` (connection-and-auth.md section 5.2)."""

import asyncio
import json
import threading

import argon2
import pytest
from auth_kit import Login
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast.config import load
from dsfast.plugin import UNSET, AuthResult, PluginError
from dsfast.services.authentication.file import FileAuthentication
from dsfast.services.authentication.passwords import Passwords

MD5 = {"hash": "md5", "iterations": 100, "keyLength": 32}
USERS = {
    "userA": {
        "password": "rCOSZxJrgze2AZdVQh12c6ErDMOG0M+Rx5Yu7S5d91c=GS4SbTQYmoaGwjm2shEobg==",
        "serverData": {"someOptional": "auth-data"},
        "clientData": {"favouriteColor": "red"},
    },
    "userB": {"password": "jHPg24EDs9SKHALytrfaoEvDyz7wJgSVEY0ANaw/LgA=m5Ilfg/3+yN5j38tx8cBfA=="},
}
CLEAR = {"users": {"peter": {"password": "secret"}}, "hash": False}
MISSING = {"error": "missing authentication parameter: username or/and password"}


def entry(**options):
    return {"type": "file", "options": options}


def others():
    """An entry behind it in the list."""
    return {"type": "file", "options": {"users": {"other": {"password": "x"}}}}


async def test_the_users_that_deepstream_ships():
    async with Login(entry(users=USERS, **MD5)) as login:
        assert login.combiner.description == "File Authentication"
        assert await login({"username": "userA", "password": "password"}) == AuthResult(
            True,
            id="userA",
            client_data={"favouriteColor": "red"},
            server_data={"someOptional": "auth-data"},
        )
        # Absent data are null, which is not the same as absent for the client.
        assert await login({"username": "userB", "password": "userBPass"}) == AuthResult(
            True, id="userB", client_data=None, server_data=None
        )
        for name, password in [("userA", "userBPass"), ("userB", ""), ("userC", "password"), ("", "")]:
            assert await login({"username": name, "password": password}) == AuthResult(False)


@pytest.mark.parametrize("none", [False, None, "absent"])
async def test_clear_text_is_what_hash_false_null_and_absent_mean(none):
    options = {"users": {"peter": {"password": "sécret"}}, **({} if none == "absent" else {"hash": none})}
    async with Login(entry(**options)) as login:
        assert (await login({"username": "peter", "password": "sécret"})).id == "peter"
        assert not (await login({"username": "peter", "password": "secret"})).is_valid
        assert login.warnings() == ["file auth: passwords are stored as clear text"]


async def test_argon2id_and_pbkdf2_in_one_file():
    stored = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("modern")
    async with Login(entry(users={**USERS, "new": {"password": stored}}, **MD5)) as login:
        assert (await login({"username": "new", "password": "modern"})).id == "new"
        assert (await login({"username": "userA", "password": "password"})).id == "userA"
        assert not (await login({"username": "new", "password": stored})).is_valid


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"username": "peter"},
        {"password": "secret"},
        {"username": 1, "password": "secret"},
        {"username": "peter", "password": ["secret"]},
        {"username": {"toString": 1}, "password": None},
        [],
        ["username", "password"],
        None,
    ],
)
async def test_missing_parameters_are_told_unless_there_are_others_to_ask(data):
    async with Login(entry(**CLEAR)) as login:
        assert await login(data) == AuthResult(False, client_data=MISSING)
    async with Login([entry(**CLEAR), others()]) as login:
        assert await login(data) == AuthResult(False)
    async with Login([entry(reportInvalidParameters=True, **CLEAR), others()]) as login:
        assert await login(data) == AuthResult(False, client_data=MISSING)
    async with Login(entry(reportInvalidParameters=False, **CLEAR)) as login:
        assert await login(data) == AuthResult(False)


async def test_the_next_entry_is_asked_about_wrong_passwords_and_unknown_users():
    same_name = entry(users={"peter": {"password": "other"}})
    async with Login([entry(**CLEAR), same_name, others()]) as login:
        assert (await login({"username": "peter", "password": "other"})).is_valid
        assert (await login({"username": "other", "password": "x"})).id == "other"
    async with Login([entry(reportInvalidParameters=True, **CLEAR), same_name, others()]) as login:
        # This one ends the search at a wrong password, but not at a name that it does not know.
        assert await login({"username": "peter", "password": "other"}) == AuthResult(False)
        assert (await login({"username": "other", "password": "x"})).id == "other"


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "__class__", "keys"])
@pytest.mark.parametrize("options", [CLEAR, {"users": USERS, **MD5}], ids=["clear", "hashed"])
async def test_names_that_every_object_has_in_javascript_are_unknown_users(name, options):
    """They end the upstream process."""
    async with Login(entry(**options)) as login:
        assert await login({"username": name, "password": "secret"}) == AuthResult(False)
        assert "Error" not in repr(login.warnings())


async def test_user_names_that_yaml_reads_as_numbers():
    async with Login(entry(users={7: {"password": "x"}})) as login:
        assert (await login({"username": "7", "password": "x"})).id == "7"


async def test_an_unknown_name_costs_what_a_wrong_password_costs(monkeypatch):
    """Both derive one key, with the settings of a real user, so that the time tells nothing."""
    checked = []
    matches = Passwords.matches
    monkeypatch.setattr(
        Passwords, "matches", lambda self, *texts: checked.append(texts) or matches(self, *texts)
    )
    stored = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("modern")
    users = {**USERS, "new": {"password": stored}}
    known = {user["password"] for user in users.values()}
    for others_too in ([], [others()]):
        auth, limits = [entry(users=users, **MD5), *others_too], {"login": {"maxFailedLogins": False}}
        async with Login(auth, limits) as login:
            for name in ("userA", "userB", "new", "nobody", "nobody else", "userA ", *map(str, range(50))):
                del checked[:]
                assert not (await login({"username": name, "password": "wrong"})).is_valid
                assert checked[0][0] == "wrong" and checked[0][1] in known
                assert len(checked) == 1 + len(others_too)
                first = checked[0][1]
                await login({"username": name, "password": "other"})
                assert checked[len(checked) // 2][1] == first, "the same work every time"


async def test_right_password_of_a_decoy_lets_nobody_in():
    async with Login(entry(users={"peter": {"password": "secret"}})) as login:
        assert await login({"username": "paul", "password": "secret"}) == AuthResult(False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "no users present in user file"),
        ({"users": {}}, "no users present in user file"),
        ({"users": {"peter": {}}}, "missing password for peter"),
        ({"users": {"peter": None}}, "missing password for peter"),
        ({"users": {"peter": "secret"}}, "missing password for peter"),
        ({"users": {"peter": {"password": ""}}}, "missing password for peter"),
        ({"users": {"peter": {"password": 1234}}}, "password for peter is no text, put it in quotes"),
        ({"users": USERS, "hash": "md5"}, "Validating settings failed for file auth: Missing key iterations"),
        (
            {"users": USERS, "hash": "md5", "iterations": 1},
            "Validating settings failed for file auth: Missing key keyLength",
        ),
        (
            {"users": USERS, "hash": "md9", "iterations": 1, "keyLength": 1},
            "Validating settings failed for file auth: Unknown Hash md9",
        ),
        (
            {"path": "/nowhere/users.json"},
            "Error loading user file: /nowhere/users.json cannot be read: No such file or directory",
        ),
    ],
)
def test_settings_that_cannot_be_used_stop_the_start(options, error):
    with pytest.raises(PluginError, match=f"^{error}$"):
        Login(entry(**options)).build()


async def test_a_stored_password_of_the_wrong_format_is_a_warning():
    async with Login(entry(users={"peter": {"password": "clear"}}, **MD5)) as login:
        assert "file auth: the stored password of peter does not have the format of hash" in login.warnings()
        assert not (await login({"username": "peter", "password": "clear"})).is_valid


@pytest.mark.parametrize("suffix", [".json", ".yml"])
async def test_the_older_option_path(tmp_path, suffix):
    file = tmp_path / f"users{suffix}"
    file.write_text(json.dumps(USERS))
    async with Login(entry(path=str(file), **MD5)) as login:
        assert (await login({"username": "userA", "password": "password"})).is_valid


async def test_the_path_is_relative_to_the_configuration_file(tmp_path):
    (tmp_path / "users.yml").write_text("peter: {password: '1234'}")
    (tmp_path / "config.yml").write_text("auth: {type: file, options: {path: users.yml}}")
    login = Login({"type": "none"})
    login.config = load(tmp_path / "config.yml")
    async with login:
        assert (await login({"username": "peter", "password": "1234"})).id == "peter"


@pytest.mark.parametrize("text", ["{", "- a", "7", '{"peter": {"password": hush'])
@pytest.mark.parametrize("suffix", [".json", ".yml"])
def test_a_user_file_that_cannot_be_read_is_told_without_its_content(tmp_path, text, suffix):
    file = tmp_path / f"users{suffix}"
    file.write_text(text)
    with pytest.raises(PluginError) as caught:
        Login(entry(path=str(file))).build()
    assert "hush" not in str(caught.value)


def test_it_can_be_made_in_code():
    login = Login({"type": "none"})
    made = FileAuthentication({"users": USERS, **MD5, "keyLength": 32}, login.services, login.config)
    assert made.report_invalid_parameters is None
    with pytest.raises(PluginError, match="users"):
        FileAuthentication({"users": 7}, login.services, login.config)


# --- checks run in threads --------------------------------------------------------------


async def test_the_loop_goes_on_while_passwords_are_checked(monkeypatch):
    go, began = threading.Event(), threading.Event()

    def slow(self, password, stored):
        began.set()
        return go.wait(20)

    monkeypatch.setattr(Passwords, "matches", slow)
    async with Login(entry(users=USERS, **MD5)) as login:
        task = asyncio.create_task(login({"username": "userA", "password": "password"}))
        await asyncio.to_thread(began.wait, 20)
        # It is being checked at this moment, and the loop is here.
        assert not task.done()
        go.set()
        assert (await task).is_valid


async def test_too_many_waiting_logins_are_refused(monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(Passwords, "matches", lambda self, *_: go.wait(20))
    limits = {"login": {"hashingThreads": 1, "maxWaitingHashes": 2}}
    async with Login([entry(users=USERS, **MD5), others()], limits) as login:
        tasks = [asyncio.create_task(login({"username": "userA", "password": "password"})) for _ in range(5)]
        refused = AuthResult(False, client_data={"error": "too many logins at the moment, try again later"})
        assert [await task for task in tasks[3:]] == [refused] * 2
        go.set()
        assert all([(await task).is_valid for task in tasks[:3]])
        assert [text for text in login.warnings() if "waiting" in text] == [
            "file auth refuses logins: 2 logins are waiting for their password to be checked"
        ] * 2


async def test_all_entries_share_one_pool():
    async with Login([entry(users=USERS, **MD5), entry(users=USERS, **MD5)]) as login:
        assert login.entries[0]._pool is login.entries[1]._pool is login.services.hash_pool


# --- any JSON ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
LOGIN_DATA = JSON | st.fixed_dictionaries({}, optional={"username": JSON, "password": JSON, "token": JSON})


@given(LOGIN_DATA)
@settings(deadline=None, max_examples=200)
def test_any_json_is_answered(data):
    async def run():
        async with Login(entry(users=USERS, **MD5, reportInvalidParameters=True)) as login:
            assert not (await login(data)).is_valid
            assert not [line for line in login.log.lines if "Error:" in line], "nothing was raised"

    asyncio.run(run())


async def test_passwords_are_not_logged():
    async with Login(entry(users={"peter": {"password": "hush-stored"}})) as login:
        await login({"username": "peter", "password": "hush-given"})
        await login({"username": "hush-given", "password": ["hush-given"]})
        assert "hush" not in repr(login.log.lines)
        assert "hush" not in repr(login.combiner.description)


def test_unset_is_not_null():
    assert AuthResult(False).client_data is UNSET
