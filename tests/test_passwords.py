"""Stored passwords (connection-and-auth.md section 6), and the threads that check them."""

import asyncio
import base64
import hashlib
import json
import threading
from pathlib import Path

import argon2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast.plugin import PluginError
from dsfast.services.authentication.hash_pool import HashPool, HashPoolFull
from dsfast.services.authentication.passwords import (
    Argon2id,
    ClearText,
    Decoys,
    Passwords,
    Pbkdf2,
    digest_name,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "password-hashes.json").read_text())
CHEAP_ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.parametrize("row", VECTORS["hashes"], ids=lambda row: row["stored"][:8])
def test_the_vectors_of_the_specification(row):
    passwords = Passwords(row["hash"], row["iterations"], row["keyLength"])
    assert row["stored"].endswith(row["salt"])
    assert passwords.matches(row["password"], row["stored"])
    assert not passwords.matches(row["password"] + "x", row["stored"])
    assert not passwords.matches(row["password"], row["stored"] + "x")
    assert passwords.is_plausible(row["stored"])


@pytest.mark.parametrize("name", VECTORS["digests"])
def test_every_name_of_a_digest_that_openssl_has(name):
    scheme = Pbkdf2(digest_name(name), 3, 20)
    assert scheme.derive("pässwörd", "c2FsdA==") == VECTORS["digests"][name]
    assert Passwords(name, 3, 20).matches("pässwörd", VECTORS["digests"][name] + "c2FsdA==")


@pytest.mark.parametrize("name", ["shake128", "none", "", " ", "sha-9000", "RSA-", "a\0b", "md5 ", "ärger"])
def test_a_digest_that_cannot_be_used_is_unknown(name):
    with pytest.raises(PluginError, match=f"^Unknown Hash {name}$"):
        Passwords(name, 1, 1)


@pytest.mark.parametrize(("iterations", "length", "key"), [(None, 32, "iterations"), (1, None, "keyLength")])
def test_a_digest_needs_its_settings(iterations, length, key):
    with pytest.raises(PluginError, match=f"^Missing key {key}$"):
        Passwords("sha256", iterations, length)


def test_a_new_hash_has_a_salt_of_its_own():
    passwords = Passwords("sha256", 10, 24)
    first, second = passwords.hash("x"), passwords.hash("x")
    assert first != second
    salt = first[32:]
    assert len(base64.b64decode(salt)) == 16 and len(salt) == 24
    key = hashlib.pbkdf2_hmac("sha256", b"x", salt.encode(), 10, 24)
    assert first == base64.b64encode(key).decode() + salt
    assert passwords.matches("x", first) and passwords.matches("x", second)
    assert not passwords.matches("y", first)


def test_argon2id_beside_any_other_kind():
    stored = CHEAP_ARGON2.hash("pässwörd")
    for options in ((None, None, None), ("md5", 1, 16), ("argon2id", None, None)):
        passwords = Passwords(*options)
        assert passwords.matches("pässwörd", stored)
        assert not passwords.matches("passwort", stored)
        assert passwords.is_slow(stored)
        assert passwords.is_plausible(stored)


def test_argon2id_as_the_kind_of_new_passwords():
    passwords = Passwords("argon2id", None, None)
    stored = passwords.hash("geheim")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.matches("geheim", stored) and not passwords.matches("Geheim", stored)
    assert passwords.weaknesses() == []
    # What is no argon2id text matches nothing, not even itself.
    assert not passwords.matches("clear", "clear")


@pytest.mark.parametrize(
    "stored",
    [
        "$argon2id$",
        "$argon2id$v=19$m=8,t=1,p=1$$",
        "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$AAAA",
        "$argon2id$v=19$m=8,t=4294967295,p=1$c29tZXNhbHQ$AAAA",
        "$argon2id$v=19$m=a,t=b,p=c$c29tZXNhbHQ$AAAA",
        "$argon2id$" + "x" * 10_000,
    ],
)
def test_a_bad_argon2id_text_matches_nothing_and_costs_nothing(stored):
    assert not Argon2id().matches("x", stored)


def test_a_bad_argon2id_text_is_known_as_such():
    assert not Argon2id().is_plausible("$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$AAAA")


def test_clear_text():
    passwords = Passwords(None, None, None)
    assert passwords.hash("x") == "x"
    assert passwords.matches("pässwörd", "pässwörd")
    assert not passwords.matches("x", "xx") and not passwords.matches("", "x")
    assert not passwords.is_slow("x")


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ((None, None, None), ["passwords are stored as clear text"]),
        (
            ("RSA-MD5", 100, 32),
            [
                "passwords are hashed with md5, which is weak",
                "passwords are hashed with 100 rounds, fewer than 10000",
            ],
        ),
        (("ssl3-sha1", 10_000, 32), ["passwords are hashed with sha1, which is weak"]),
        (("sha512", 9_999, 32), ["passwords are hashed with 9999 rounds, fewer than 10000"]),
        (("sha512", 10_000, 32), []),
    ],
)
def test_what_is_weak_is_said(settings_, expected):
    assert Passwords(*settings_).weaknesses() == expected


@pytest.mark.parametrize("stored", ["", "short", "$" * 44, "=" * 44 + "salt"])
def test_stored_texts_that_no_password_can_match(stored):
    assert not Passwords("sha256", 1, 32).is_plausible(stored)


SCHEMES = [ClearText(), Pbkdf2("sha256", 1, 7), Argon2id()]
JSON_TEXT = st.text(st.characters())  # halves of surrogate pairs are JSON too


@given(JSON_TEXT, JSON_TEXT | st.builds("$argon2id$".__add__, st.text()))
@settings(deadline=None)
def test_no_password_and_no_stored_text_raises(password, stored):
    for scheme in SCHEMES:
        scheme.matches(password, stored)
    for passwords in (Passwords(None, None, None), Passwords("sha1", 1, 9)):
        passwords.matches(password, stored)
        passwords.is_slow(stored)
        passwords.is_plausible(stored)


@given(JSON_TEXT)
@settings(deadline=None)
def test_every_password_matches_its_own_hash(password):
    scheme = Pbkdf2("sha256", 1, 7)
    assert scheme.matches(password, scheme.hash(password))


# --- decoys -----------------------------------------------------------------------------


def test_a_name_always_has_the_same_decoy_and_all_are_used():
    stored = ["a", "b", "c"]
    decoys = Decoys(stored)
    chosen = {f"user {number}": decoys.choose(f"user {number}") for number in range(200)}
    assert set(chosen.values()) == set(stored)
    assert chosen == {name: decoys.choose(name) for name in chosen}
    # Nobody outside can tell which it will be.
    other = Decoys(stored)
    assert chosen != {name: other.choose(name) for name in chosen}


# --- the pool ---------------------------------------------------------------------------


async def test_the_pool_bounds_what_runs_and_what_waits():
    pool = HashPool(2, 3)
    go, running = threading.Event(), []

    def work(number):
        running.append(number)
        go.wait(20)
        return number

    tasks = [asyncio.create_task(pool.run(work, number)) for number in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(HashPoolFull, match="3 logins are waiting"):
        await pool.run(work, 5)
    go.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]
    assert sorted(running) == [0, 1, 2, 3, 4]
    assert await pool.run(work, 6) == 6
    pool.close()


async def test_who_gives_up_waiting_keeps_the_place_until_the_work_is_done():
    pool = HashPool(1, 0)
    go, began = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work():
        loop.call_soon_threadsafe(began.set)
        go.wait(20)

    task = asyncio.create_task(pool.run(work))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(HashPoolFull):
        await pool.run(work)
    go.set()
    async with asyncio.timeout(20):
        while True:
            try:
                await pool.run(int)
                break
            except HashPoolFull:
                await asyncio.sleep(0.001)
    pool.close()


async def test_an_exception_comes_back_and_frees_the_place():
    pool = HashPool(1, 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0)
    pool.close()
