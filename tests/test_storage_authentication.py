"""Authentication ``storage`` (connection-and-auth.md section 5.3)."""

import asyncio
import json
import uuid

import argon2
import pytest
from auth_kit import Login
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import AUTH_UNSUCCESSFUL, auth_request, serve

from dsfast._core.protocol import AuthAction, Topic
from dsfast.plugin import AuthResult, Permission, PluginError, Storage
from dsfast.services.authentication.passwords import Pbkdf2
from dsfast.services.storage.batch import PermanentStorageError
from dsfast.services.storage.none import NoStorage
from dsfast.services.storage.write_behind import WriteBehind

SETTINGS = {"table": "users", "hash": "sha256", "iterations": 10, "keyLength": 32}
SCHEME = Pbkdf2("sha256", 10, 32)


class Memory(Storage):
    """Keeps rows in a dict; what is in ``errors`` is raised, and ``gate`` holds writes back."""

    description = "memory"

    def init(self):
        self.rows = {}
        self.reads, self.writes = 0, []
        self.read_error = self.write_error = None
        self.writing = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, name):
        self.reads += 1
        if self.read_error:
            raise self.read_error
        return self.rows.get(name, (-1, None))

    async def set(self, name, version, data):
        self.writes.append(name)
        self.writing.set()
        await self.gate.wait()
        if self.write_error:
            raise self.write_error
        self.rows[name] = (version, data)

    async def delete(self, name):
        self.rows.pop(name, None)


class Table(Login):
    """A login with its users in such a storage."""

    def __init__(self, config=None, others=(), **options):
        entry = {"type": "storage", "options": {**SETTINGS, **options}}
        super().__init__([entry, *others], config)
        self.storage = Memory({}, self.services, self.config)
        self.storage.init()
        self.services.storage = self.storage

    async def __aenter__(self):
        self.services.storage_writer = WriteBehind(self.storage, logger=self.log, write_ack_timeout=500)
        return await super().__aenter__()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        await self.services.storage_writer.close()

    def add(self, name, secret, /, **row):
        """A user as the server writes one; ``row`` replaces parts of it."""
        whole = {
            "username": name,
            "password": SCHEME.hash(secret),
            "clientData": {"id": f"id-{name}"},
            "serverData": {"created": 1},
            **row,
        }
        self.storage.rows[f"users/{name}"] = (1, {key: part for key, part in whole.items() if part != "-"})


OTHERS = [{"type": "file", "options": {"users": {"other": {"password": "x"}}}}]
PETER = {"username": "peter", "password": "secret"}


async def test_a_stored_user_logs_in_under_the_stored_id():
    async with Table() as login:
        login.add("peter", "secret")
        assert await login(PETER) == AuthResult(
            True, id="id-peter", client_data={"id": "id-peter"}, server_data={"created": 1}
        )
        assert await login({**PETER, "password": "wrong"}) == AuthResult(False)
        assert await login({**PETER, "username": "paul"}) == AuthResult(False)
        assert login.combiner.description == "Storage Authentication using table users"


async def test_a_name_with_a_slash_is_part_of_the_record_name():
    async with Table() as login:
        login.add("a/b", "secret")
        assert (await login({"username": "a/b", "password": "secret"})).id == "id-a/b"


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        ({}, "username password"),
        ([], "username password"),
        ({"username": "peter"}, "password"),
        ({"password": "x"}, "username"),
        ({"username": "", "password": "x"}, "username"),
        ({"username": {"toString": 1}, "password": "x"}, "username"),
    ],
)
async def test_only_what_is_missing_is_named(data, missing):
    error = {"error": f"missing authentication parameters: {missing}"}
    async with Table(createUser=True) as login:
        assert await login(data) == AuthResult(False, client_data=error)
        assert login.storage.writes == []
    async with Table(others=OTHERS) as login:
        assert await login(data) == AuthResult(False)


async def test_the_next_entry_is_asked():
    async with Table(others=OTHERS) as login:
        login.add("other", "secret")
        assert (await login({"username": "other", "password": "x"})).id == "other"
    async with Table(others=OTHERS, reportInvalidParameters=True) as login:
        login.add("other", "secret")
        assert await login({"username": "other", "password": "x"}) == AuthResult(False)
        del login.storage.rows["users/other"]
        assert (await login({"username": "other", "password": "x"})).id == "other"


async def test_a_first_login_creates_the_user():
    async with Table(createUser=True) as login:
        first = await login(PETER)
        assert first.is_valid
        assert str(uuid.UUID(first.id, version=4)) == first.id
        assert first.client_data == {"id": first.id}
        version, row = login.storage.rows["users/peter"]
        assert version == 1
        assert set(row) == {"username", "password", "clientData", "serverData"}
        assert row["username"] == "peter"
        assert SCHEME.matches("secret", row["password"])
        assert row["clientData"] == {"id": first.id}
        assert row["serverData"] == first.server_data
        assert isinstance(first.server_data["created"], int)
        assert "REGISTERING_USER Adding new user peter" in login.log.lines
        assert await login(PETER) == first
        assert await login({**PETER, "password": "wrong"}) == AuthResult(False)


async def test_first_logins_at_the_same_time_create_one_user():
    """Upstream creates one each, and the later one wins."""
    async with Table(createUser=True) as login:
        login.storage.gate.clear()
        tasks = [asyncio.create_task(login(PETER)) for _ in range(20)]
        tasks += [asyncio.create_task(login({**PETER, "password": "other"})) for _ in range(5)]
        await asyncio.wait_for(login.storage.writing.wait(), 20)
        login.storage.gate.set()
        results = await asyncio.gather(*tasks)
        accepted = [result.id for result in results if result.is_valid]
        assert len(set(accepted)) == 1
        assert len(accepted) == 20, "the others gave another password"
        assert login.storage.writes == ["users/peter"]
        assert sum(line.startswith("REGISTERING_USER") for line in login.log.lines) == 1
        assert len(login.entries[0]._locks) == 0


async def test_a_login_that_is_cancelled_does_not_block_the_name():
    async with Table(createUser=True) as login:
        login.storage.gate.clear()
        task = asyncio.create_task(login(PETER))
        await asyncio.wait_for(login.storage.writing.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        login.storage.gate.set()
        assert (await login(PETER)).is_valid


async def test_users_of_different_names_are_created_at_the_same_time():
    async with Table(createUser=True) as login:
        names = [f"user{number}" for number in range(20)]
        results = await asyncio.gather(*(login({**PETER, "username": name}) for name in names))
        assert len({result.id for result in results}) == 20
        assert set(login.storage.rows) == {f"users/{name}" for name in names}


async def test_a_read_that_fails():
    async with Table(createUser=True) as login:
        login.storage.read_error = RuntimeError("no table")
        error = AuthResult(False, client_data={"error": "Error retrieving user from storage"})
        assert await login(PETER) == error
        assert "STORAGE_AUTH | AUTH_ERROR Error retrieving user from storage: no table" in login.log.lines
        assert login.storage.writes == []


class Silent(Memory):
    async def get(self, name):
        await asyncio.Event().wait()


async def test_a_storage_that_does_not_answer():
    login = Table({"record": {"storageRetrievalTimeout": 50}})
    login.storage = login.services.storage = Silent({}, login.services, login.config)
    login.storage.init()
    async with login:
        assert (await login(PETER)).client_data == {"error": "Error retrieving user from storage"}
        assert "STORAGE_AUTH | AUTH_ERROR Error retrieving user from storage: TimeoutError" in login.log.lines


async def test_a_write_that_fails():
    async with Table(createUser=True) as login:
        login.storage.write_error = PermanentStorageError("disk on fire")
        assert await login(PETER) == AuthResult(False, client_data={"error": "Error creating user"})
        assert any("Error creating user: " in line and "STORAGE_AUTH" in line for line in login.log.lines)
        login.storage.write_error = None
        assert (await login(PETER)).is_valid


async def test_a_registration_that_the_storage_does_not_confirm_in_time():
    async with Table(createUser=True) as login:
        login.storage.gate.clear()
        assert (await login(PETER)).client_data == {"error": "Error creating user"}
        login.storage.gate.set()


@pytest.mark.parametrize(
    "row",
    [
        {"password": "-"},
        {"password": None},
        {"password": 7},
        {"password": "short"},
        {"password": ["secret"]},
    ],
)
async def test_a_stored_user_without_a_usable_password_is_refused(row):
    """One without ends the upstream process; digests of old versions can never match."""
    async with Table() as login:
        login.add("peter", "secret", **row)
        assert await login(PETER) == AuthResult(False)
        assert "storage auth: the record of user peter has no usable password" in login.warnings()


@pytest.mark.parametrize("row", [None, 7, [], "text"])
async def test_a_record_that_is_no_user(row):
    async with Table(createUser=True) as login:
        login.storage.rows["users/peter"] = (1, row)
        result = await login(PETER)
        if row is None:  # a storage says "missing" so
            assert result.is_valid
        else:
            assert result == AuthResult(False)
            assert login.storage.writes == []


@pytest.mark.parametrize(
    ("client_data", "user_id"),
    [
        ({"id": 7}, "7"),
        ({"id": "x", "more": [1]}, "x"),
        ({}, None),
        (None, None),
        ("-", None),
        ({"id": {}}, None),
    ],
)
async def test_the_id_of_rows_made_by_others(client_data, user_id):
    async with Table() as login:
        login.add("peter", "secret", clientData=client_data)
        result = await login(PETER)
        assert (result.is_valid, result.id) == (True, user_id)
        assert result.client_data == (None if client_data == "-" else client_data)
        told = "storage auth: the record of user peter has no clientData.id" in login.warnings()
        assert told == (user_id is None)


async def test_argon2id_rows():
    async with Table() as login:
        login.add("peter", "-", password=argon2.PasswordHasher(1, 8, 1).hash("secret"))
        assert (await login(PETER)).is_valid
    async with Table(hash="argon2id", createUser=True) as login:
        assert (await login(PETER)).is_valid
        assert login.storage.rows["users/peter"][1]["password"].startswith("$argon2id$")


async def test_an_unknown_name_costs_what_a_wrong_password_costs(monkeypatch):
    derived = []
    derive = Pbkdf2.derive
    monkeypatch.setattr(Pbkdf2, "derive", lambda self, *texts: derived.append(self) or derive(self, *texts))
    async with Table() as login:
        login.add("peter", "secret")
        login.add("broken", "secret", password="short")
        for name in ("peter", "paul", "broken"):
            del derived[:]
            login.storage.reads = 0
            assert await login({"username": name, "password": "wrong"}) == AuthResult(False)
            assert derived == [SCHEME]
            assert login.storage.reads == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hash": None}, "Validating settings failed for storage auth: Missing key hash"),
        ({"iterations": None}, "Validating settings failed for storage auth: Missing key iterations"),
        ({"keyLength": None}, "Validating settings failed for storage auth: Missing key keyLength"),
        ({"hash": "md9"}, "Validating settings failed for storage auth: Unknown Hash md9"),
    ],
)
def test_settings_that_cannot_be_used_stop_the_start(options, error):
    with pytest.raises(PluginError, match=f"^{error}$"):
        Table(**options).build()


async def test_without_a_storage_it_does_not_start():
    """With createUser every login would be a new user, that is, everybody would be let in."""
    login = Table(createUser=True)
    login.services.storage = NoStorage({}, login.services, login.config)
    login.build().init()
    with pytest.raises(PluginError, match="needs a storage"):
        await login.combiner.when_ready()
    await login.combiner.close()


READABLE = (
    "storage auth: permissions let clients read users/..., which are the users with their password hashes"
)


async def test_password_hashes_that_clients_may_read_are_a_warning():
    async with Table() as login:
        assert READABLE in login.warnings()  # permission none


class Closed(Permission):
    description = "closed"

    def can_perform_action(self, socket, message):
        return False


async def test_the_permission_service_can_tell_whether_they_are_readable():
    login = Table()
    login.services.permission = Closed({}, login.services, login.config)
    async with login:
        assert READABLE not in login.warnings()
        asked = []
        login.combiner.warn_if_readable(lambda name: bool(asked.append(name)))
        assert READABLE not in login.warnings() and asked[0].startswith("users/")
        login.combiner.warn_if_readable(lambda name: name.startswith("users/"))
        assert READABLE in login.warnings()


async def test_a_name_without_end():
    async with Table(createUser=True) as login:
        result = await login({"username": "x" * 100_000, "password": "x"})
        assert result.client_data == {"error": "the username is too long"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(
    JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(("password", "clientData", "serverData"), JSON))
)
@settings(deadline=None, max_examples=100)
def test_any_row_is_answered(row):
    async def run():
        async with Table() as login:
            login.storage.rows["users/peter"] = (1, row)
            assert not (await login(PETER)).is_valid
            assert not [line for line in login.log.lines if "Error" in line]

    asyncio.run(run())


# --- in a server ------------------------------------------------------------------------


async def test_a_user_is_created_over_the_wire_and_survives_a_restart(tmp_path):
    config = {
        "auth": {"type": "storage", "options": {**SETTINGS, "createUser": True}},
        "storage": {"type": "sqlite"},
        "dataDir": str(tmp_path),
    }
    answers = []
    for password in ("secret", "secret", "wrong"):
        async with serve(config) as s:
            client = await s.challenged()
            client.send(auth_request(json.dumps({**PETER, "password": password}).encode()))
            if password == "wrong":
                assert await client.payload() == AUTH_UNSUCCESSFUL
                continue
            message = await client.receive()
            assert (message.topic, message.action) == (Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
            answers.append(json.loads(message.data))
            assert s.connection(answers[-1]["id"]).server_data.keys() == {"created"}
    assert answers[0] == answers[1]
