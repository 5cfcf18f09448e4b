"""Authentication ``jwt`` (docs/authentication.md): signatures, keys that change, claims."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from datetime import UTC, datetime

import jwt
import pytest
from auth_kit import HANDSHAKE, Login
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from web_server import WebServer, answer, as_json, endless, silence

from dsfast.config import ConfigError
from dsfast.plugin import UNSET, AuthResult, PluginError
from dsfast.services.authentication.jwt_keys import PublishedKeys, parse_key_set
from dsfast.services.logger import FloodGuard

SECRET = "0123456789abcdef" * 4
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = {name: ec.generate_private_key(curve) for name, curve in (
    ("ES256", ec.SECP256R1()), ("ES384", ec.SECP384R1()), ("ES512", ec.SECP521R1()),
)}  # fmt: skip
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()

INVALID = AuthResult(False, client_data={"error": "invalid token"})
EXPIRED = AuthResult(False, client_data={"error": "token expired"})
MISSING = AuthResult(False, client_data={"error": "missing authentication parameter: token"})


def pem(key):
    """The public half as PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def claims(**changes):
    now = int(time.time())
    whole = {"sub": "peter", "iat": now, "exp": now + 3600, "aud": "dsfast", "iss": "https://id.example"}
    whole.update(changes)
    return {name: value for name, value in whole.items() if value is not None}


def token(key=SECRET, algorithm="HS256", headers=None, **changes):
    return jwt.encode(claims(**changes), key, algorithm, headers)


def raw_token(header, payload, signature=b""):
    """A token of parts that no library would put together."""
    return b".".join(
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=")
        for part in (header, payload, signature)
    ).decode()


def signed(header, payload, key=SECRET):
    """The same, with a valid HS256 signature."""
    unsigned = raw_token(header, payload).rpartition(".")[0]
    signature = hmac.digest(key.encode(), unsigned.encode(), hashlib.sha256)
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def tokens(others=(), config=None, **options):
    """A login by token; without anything else one with the secret."""
    if not {"secret", "publicKey", "jwksUrl", "jwksFile"} & set(options):
        options["secret"] = SECRET
    given = {"algorithms": ["HS256"], "audience": "dsfast", **options}
    return Login([{"type": "jwt", "options": given}, *others], config)


def jwk(key, algorithm, **members):
    """A key as a member of a key set."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in {**made, **members}.items() if name != "key_ops"}


def key_set(*keys):
    return as_json({"keys": list(keys)})


# --- signatures -------------------------------------------------------------------------

PAIRS = [("HS256", SECRET), ("HS384", SECRET), ("HS512", SECRET)]
PAIRS += [(f"{kind}{size}", RSA) for kind in ("RS", "PS") for size in (256, 384, 512)]
PAIRS += [*EC.items(), ("EdDSA", ED25519), ("EdDSA", ED448)]


@pytest.mark.parametrize(("algorithm", "key"), PAIRS)
async def test_every_algorithm(algorithm, key):
    source = {"secret": key} if isinstance(key, str) else {"publicKey": pem(key)}
    async with tokens(algorithms=[algorithm], **source) as login:
        good = token(key, algorithm)
        result = await login({"token": good})
        assert (result.is_valid, result.id, result.token) == (True, "peter", good)
        head, body, signature = good.split(".")
        forged = base64.urlsafe_b64encode(json.dumps(claims(sub="admin")).encode()).rstrip(b"=").decode()
        assert await login({"token": f"{head}.{forged}.{signature}"}) == INVALID
        assert await login({"token": f"{head}.{body}."}) == INVALID


async def test_a_token_of_another_key():
    async with tokens() as login:
        assert await login({"token": token("x" * 64)}) == INVALID
    async with tokens(algorithms=["RS256"], publicKey=pem(RSA)) as login:
        assert await login({"token": token(OTHER_RSA, "RS256")}) == INVALID


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, "HS512", "XX", ["HS256"], 7, {}])
async def test_no_token_chooses_its_algorithm(name):
    async with tokens() as login:
        assert await login({"token": raw_token({"alg": name, "typ": "JWT"}, claims())}) == INVALID
        assert await login({"token": signed({"alg": name}, claims())}) == INVALID


async def test_a_public_key_is_no_secret():
    """Algorithm confusion: a token signed by HMAC with the text of the public key."""
    forged = signed({"alg": "HS256"}, claims(), pem(RSA))
    async with tokens(algorithms=["RS256"], publicKey=pem(RSA)) as login:
        assert await login({"token": forged}) == INVALID
    with pytest.raises(PluginError, match="does not fit the algorithm HS256"):
        tokens(algorithms=["RS256", "HS256"], publicKey=pem(RSA)).build()
    with pytest.raises(PluginError, match="secret is a PEM key"):
        tokens(secret=pem(RSA)).build()
    options, keys = {"algorithms": ["RS256"]}, key_set(jwk(RSA, "RS256", kid="a"))
    async with WebServer(keys) as web, tokens(jwksUrl=web.url, **options) as login:
        for algorithm in ("HS256", "RS256"):
            forged = signed({"alg": algorithm, "kid": "a"}, claims(), pem(RSA))
            assert await login({"token": forged}) == INVALID


async def test_a_key_in_the_header_does_not_count():
    headers = {"jwk": jwk(OTHER_RSA, "RS256"), "jku": "http://evil.example/", "kid": "../../dev/null"}
    async with tokens(algorithms=["RS256"], publicKey=pem(RSA)) as login:
        assert await login({"token": token(OTHER_RSA, "RS256", headers)}) == INVALID


async def test_a_critical_header_is_not_understood():
    async with tokens() as login:
        assert (await login({"token": signed({"alg": "HS256"}, claims())})).is_valid
        for more in ({"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": []}, {"b64": False}):
            assert await login({"token": signed({"alg": "HS256", **more}, claims())}) == INVALID, more


# --- claims -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": -10}, EXPIRED),
        ({"exp": 3}, None),
        ({"exp": -3}, None),
        ({"nbf": 10}, INVALID),
        ({"nbf": 3}, None),
        ({"iat": 60}, INVALID),
    ],
)
async def test_times_and_the_skew_of_clocks(changes, expected):
    """``clockSkew`` is 5 s."""
    now = int(time.time())
    changes = {name: now + seconds for name, seconds in changes.items()}
    async with tokens(clockSkew=5000) as login:
        result = await login({"token": token(**changes)})
        assert result == expected if expected else result.is_valid


@pytest.mark.parametrize("value", [True, "soon", [], {}, 1e400, float("nan")])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
async def test_times_that_are_none(name, value):
    async with tokens() as login:
        result = await login({"token": signed({"alg": "HS256"}, claims(**{name: value}))})
        assert result in (INVALID, EXPIRED) or (value is True and name != "exp")


async def test_a_token_without_end():
    async with tokens() as login:
        assert await login({"token": token(exp=None)}) == INVALID
    async with tokens(requireExpiry=False) as login:
        result = await login({"token": token(exp=None)})
        assert (result.is_valid, result.expires) == (True, None)


async def test_when_the_login_ends():
    end = int(time.time()) + 100
    async with tokens(clockSkew=7000) as login:
        assert (await login({"token": token(exp=end)})).expires == end + 7
        assert (await login({"token": token(exp=10**300)})).expires is None
    async with tokens(endOnExpiry=False) as login:
        assert (await login({"token": token(exp=end)})).expires is None


@pytest.mark.parametrize(
    ("wanted", "given", "valid"),
    [
        ("dsfast", "dsfast", True),
        ("dsfast", ["x", "dsfast"], True),
        (["a", "b"], "b", True),
        ("dsfast", "other", False),
        ("dsfast", ["x"], False),
        ("dsfast", [], False),
        ("dsfast", None, False),
        ("dsfast", {"dsfast": 1}, False),
        ([], "whoever", True),
        ([], None, True),
    ],
)
async def test_audience(wanted, given, valid):
    async with tokens(audience=wanted) as login:
        assert (await login({"token": token(aud=given)})).is_valid == valid
        assert any("no audience is set" in text for text in login.warnings()) == (wanted == [])


@pytest.mark.parametrize(
    ("wanted", "given", "valid"),
    [
        ("https://id.example", "https://id.example", True),
        (["x", "https://id.example"], "https://id.example", True),
        ("https://id.example", "https://id.example.evil", False),
        ("https://id.example", None, False),
        ("https://id.example", ["https://id.example"], False),
        ([], "anybody", True),
    ],
)
async def test_issuer(wanted, given, valid):
    async with tokens(issuer=wanted) as login:
        assert (await login({"token": signed({"alg": "HS256"}, claims(iss=given))})).is_valid == valid


@pytest.mark.parametrize(
    ("value", "user_id"),
    [("peter", "peter"), (7, "7"), ("", None), (None, None), (True, None), (["peter"], None), ({}, None)],
)
async def test_the_claim_that_is_the_user_id(value, user_id):
    async with tokens(idClaim="uid") as login:
        result = await login({"token": signed({"alg": "HS256"}, claims(uid=value))})
        assert (result.is_valid, result.id) == (user_id is not None, user_id)
        assert any("claim uid is no user id" in text for text in login.warnings()) == (user_id is None)


async def test_claims_become_data():
    more = {"role": "x", "https://e/level": 3, "secret": 1}
    good = {"token": token(**more)}
    async with tokens() as login:
        result = await login(good)
        assert result.server_data == claims(**more) | {"iat": result.server_data["iat"]}
        assert result.client_data is UNSET
    async with tokens(
        serverDataClaims=["role", "absent"], clientDataClaims={"level": "https://e/level"}
    ) as login:
        result = await login(good)
        assert (result.server_data, result.client_data) == ({"role": "x"}, {"level": 3})
    async with tokens(serverDataClaims=[], clientDataClaims=["absent"]) as login:
        result = await login(good)
        assert (result.server_data, result.client_data) == ({}, UNSET)


# --- where the token is -----------------------------------------------------------------


async def test_where_the_token_may_be():
    good = token()
    headers = {"authorization": f"Bearer {good}", "x-token": good, "cookie": f'a=1; jwt="{good}"; b'}

    def shake(*names):
        return {**HANDSHAKE, "headers": {name: headers[name] for name in names}}

    async with tokens() as login:
        assert await login({}, shake(*headers)) == MISSING
        assert await login({"token": ""}) == MISSING
        assert await login({"token": [good]}) == MISSING
        assert await login([good]) == MISSING
        assert await login({"jwt": good}) == MISSING
        assert (await login({"token": good}, {"headers": {}, "url": "/api"})).is_valid
        assert (await login({"token": good}, {})).is_valid
    async with tokens(tokenParameter="jwt", tokenHeader="X-Token") as login:
        assert (await login({"jwt": good})).is_valid
        assert (await login({}, shake("x-token"))).is_valid
        assert not (await login({}, shake("authorization", "cookie"))).is_valid
    async with tokens(tokenHeader="Authorization", tokenCookie="jwt") as login:
        assert (await login({}, shake("authorization"))).is_valid
        assert (await login(None, shake("cookie"))).is_valid
        # What the client says counts before what its browser sends by itself.
        assert await login({"token": token("x" * 64)}, shake("cookie")) == INVALID
        for value in ("", "Bearer", "Bearer ", "Basic abc"):
            assert not (await login({}, {"headers": {"authorization": value}})).is_valid


async def test_cookies_of_every_page_are_a_warning():
    async with tokens(tokenCookie="jwt") as login:
        assert any("allowAllOrigins" in text for text in login.warnings())
    origins = {"httpServer": {"options": {"allowAllOrigins": False, "origins": ["https://a"]}}}
    async with tokens(tokenCookie="jwt", config=origins) as login:
        assert login.warnings() == []


async def test_the_next_entry_is_asked():
    other = {"type": "file", "options": {"users": {"peter": {"password": "x"}}}}
    async with tokens([other]) as login:
        assert (await login({"username": "peter", "password": "x"})).is_valid
        assert (await login({"username": "peter", "password": "x", "token": "bad"})).is_valid
        assert await login({"token": "bad"}) == AuthResult(False)
    async with tokens([other], reportInvalidParameters=True) as login:
        assert await login({"username": "peter", "password": "x"}) == MISSING


# --- settings ---------------------------------------------------------------------------


def self_signed():
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, RSA.public_key(), 1, moment, moment.replace(year=2036))
    return builder.sign(RSA, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


async def test_a_public_key_may_be_a_file_or_a_certificate(tmp_path):
    file = tmp_path / "key.pem"
    file.write_text(pem(RSA))
    for key in (str(file), self_signed()):
        async with tokens(algorithms=["RS256"], publicKey=key) as login:
            assert (await login({"token": token(RSA, "RS256")})).is_valid


PRIVATE = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
SHORT_RSA = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"secret": SECRET, "publicKey": "x"}, "exactly one of"),
        ({"secret": "short"}, "secret must have at least 32 bytes for HS256"),
        ({"secret": "x" * 63, "algorithms": ["HS256", "HS512"]}, "at least 64 bytes for HS512"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "does not fit the algorithm RS256"),
        ({"publicKey": pem(RSA), "algorithms": ["ES256"]}, "does not fit the algorithm ES256"),
        ({"publicKey": pem(EC["ES256"]), "algorithms": ["ES384"]}, "does not fit the algorithm ES384"),
        ({"publicKey": PRIVATE, "algorithms": ["RS256"]}, "is no PEM public key, it is a private key"),
        ({"publicKey": "-----BEGIN NOTHING", "algorithms": ["RS256"]}, "is no PEM public key$"),
        ({"publicKey": "/nowhere.pem", "algorithms": ["RS256"]}, "publicKey /nowhere.pem: No such file"),
        ({"publicKey": pem(SHORT_RSA), "algorithms": ["RS256"]}, "1024 bits is too short"),
        ({"jwksFile": "/nowhere.json", "algorithms": ["RS256"]}, "jwksFile /nowhere.json does not exist"),
        ({"jwksUrl": "https://id.example/keys"}, "HS256 needs secret"),
    ],
)
def test_settings_that_cannot_be_used_stop_the_start(options, error):
    with pytest.raises(PluginError, match=error) as caught:
        tokens(**options).build()
    assert SECRET not in str(caught.value)


def test_a_key_has_to_come_from_somewhere():
    with pytest.raises(PluginError, match="exactly one of"):
        Login({"type": "jwt", "options": {"algorithms": ["HS256"]}}).build()


@pytest.mark.parametrize("algorithms", [["none"], ["HS256", "none"], [], None, "HS256", ["hs256"]])
def test_algorithms_are_required_and_never_none(algorithms):
    with pytest.raises(ConfigError, match="algorithms"):
        tokens(algorithms=algorithms)


async def test_secrets_and_tokens_are_not_logged():
    async with tokens() as login:
        bad = token("x" * 64)
        await login({"token": bad})
        await login({"token": token(exp=1)})
        text = repr(login.log.lines) + login.combiner.description
        assert SECRET not in text and bad not in text and bad.split(".")[1] not in text


def later(login):
    """The interval between two readings of a key set (10 s) has passed."""
    keys = login.entries[0]._keys
    now = keys._clock() + 11
    keys._clock = lambda: now


# --- key sets ---------------------------------------------------------------------------


async def test_keys_are_found_by_their_id_and_read_once():
    keys = key_set(jwk(RSA, "RS256", kid="a"), jwk(OTHER_RSA, "RS256", kid="b", use="sig", alg="RS256"))
    async with WebServer(keys) as web, tokens(algorithms=["RS256"], jwksUrl=web.url) as login:
        assert login.combiner.description == f"JSON web tokens (RS256) verified with {web.url}"
        for _ in range(3):
            assert (await login({"token": token(RSA, "RS256", {"kid": "a"})})).is_valid
            assert (await login({"token": token(OTHER_RSA, "RS256", {"kid": "b"})})).is_valid
            assert (await login({"token": token(OTHER_RSA, "RS256")})).is_valid, "no id: all keys are tried"
            assert await login({"token": token(OTHER_RSA, "RS256", {"kid": "a"})}) == INVALID
        assert len(web.requests) == 1
        assert web.requests[0].method == "GET"


async def test_a_new_key_is_fetched_when_a_token_asks_for_it():
    before, after = key_set(jwk(RSA, "RS256", kid="a")), key_set(jwk(OTHER_RSA, "RS256", kid="b"))
    options = {"algorithms": ["RS256"]}
    async with WebServer(before, after) as web, tokens(jwksUrl=web.url, **options) as login:
        old, new = token(RSA, "RS256", {"kid": "a"}), token(OTHER_RSA, "RS256", {"kid": "b"})
        assert (await login({"token": old})).is_valid
        later(login)
        # Many at once: one reading serves them all.
        results = await asyncio.gather(*(login({"token": new}) for _ in range(20)))
        assert all(result.is_valid for result in results)
        assert len(web.requests) == 2
        # The old key has been withdrawn.
        assert await login({"token": old}) == INVALID


async def test_a_new_key_without_ids_is_fetched_too():
    before, after = key_set(jwk(RSA, "RS256")), key_set(jwk(OTHER_RSA, "RS256"))
    options = {"algorithms": ["RS256"]}
    async with WebServer(before, after) as web, tokens(jwksUrl=web.url, **options) as login:
        later(login)
        assert (await login({"token": token(OTHER_RSA, "RS256")})).is_valid


async def test_unknown_ids_do_not_cause_a_request_each():
    options, keys = {"algorithms": ["RS256"]}, key_set(jwk(RSA, "RS256", kid="a"))
    async with WebServer(keys) as web, tokens(jwksUrl=web.url, **options) as login:
        for number in range(50):
            assert await login({"token": token(OTHER_RSA, "RS256", {"kid": str(number)})}) == INVALID
        assert len(web.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        silence,
        endless,
        answer(500),
        answer(302, Location="http://localhost/"),
        answer(200, "{", "application/json"),
        as_json({}),
        as_json([]),
    ],
    ids=["silence", "endless", "500", "redirect", "no JSON", "no keys", "a list"],
)
async def test_a_key_server_in_trouble_stops_nothing(trouble):
    """The server starts; logins are refused until the keys can be read."""
    options = {"algorithms": ["RS256"], "jwksRequestTimeout": 500}
    answers = (trouble, key_set(jwk(RSA, "RS256")))
    async with WebServer(*answers) as web, tokens(jwksUrl=web.url, **options) as login:
        assert any("the key set cannot be read: " in text for text in login.warnings())
        later(login)
        assert (await login({"token": token(RSA, "RS256")})).is_valid


async def test_a_start_does_not_wait_for_a_slow_key_server():
    config = {"dependencyInitializationTimeout": 1000}
    async with WebServer(silence) as web:
        options = {"jwksUrl": web.url, "algorithms": ["RS256"], "jwksRequestTimeout": 60_000}
        login = tokens(config=config, **options)
        login.build().init()
        await asyncio.wait_for(login.combiner.when_ready(), 20)
        assert login.entries[0]._keys._loading is not None, "it is still being read"
        await login.combiner.close()
        assert await asyncio.wait_for(login({"token": token(RSA, "RS256")}), 20) == INVALID


async def test_a_key_set_in_a_file_is_read_again(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(RSA, "RS256", kid="a")]}))
    options = {"algorithms": ["RS256"]}
    async with tokens(jwksFile=str(file), **options) as login:
        assert (await login({"token": token(RSA, "RS256", {"kid": "a"})})).is_valid
        file.write_text(json.dumps({"keys": [jwk(OTHER_RSA, "RS256", kid="b")]}))
        later(login)
        assert (await login({"token": token(OTHER_RSA, "RS256", {"kid": "b"})})).is_valid
        file.unlink()
        later(login)
        assert await login({"token": token(RSA, "RS256", {"kid": "c"})}) == INVALID
        assert (await login({"token": token(OTHER_RSA, "RS256", {"kid": "b"})})).is_valid


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def test_a_key_set_has_a_lifetime_and_its_readings_a_distance():
    clock, texts, log = Clock(), [], Login({"type": "none"}).log
    loads = 0

    async def load():
        nonlocal loads
        loads += 1
        return texts[-1]

    keys = PublishedKeys(
        load, lifetime=60_000, interval=10_000, patience=1000, guard=FloodGuard(log), clock=clock
    )
    texts.append(json.dumps({"keys": [jwk(RSA, "RS256", kid="a")]}).encode())
    await keys.prepare()
    assert (len(await keys.find("a", "RS256")), loads) == (1, 1)
    texts.append(json.dumps({"keys": [jwk(RSA, "RS256", kid="b")]}).encode())
    clock.now = 59
    assert (len(await keys.find("a", "RS256")), loads) == (1, 1)
    clock.now = 60
    # It is old: a key that was withdrawn is not accepted any more, the new one is.
    assert (await keys.find("a", "RS256"), loads) == ([], 2)
    assert (len(await keys.find("b", "RS256")), loads) == (1, 2)
    clock.now = 69.9
    assert (await keys.find("c", "RS256"), loads) == ([], 2)
    clock.now = 70
    assert (await keys.find("c", "RS256"), loads) == ([], 3)
    # What cannot be read leaves what there is.
    texts.append(b"?")
    clock.now = 200
    assert (len(await keys.find("b", "RS256")), loads) == (1, 4)
    assert (len(await keys.find("b", "RS256")), loads) == (1, 4)
    clock.now = 211
    assert (len(await keys.find("b", "RS256")), loads) == (1, 5)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "it is a secret"),
        ({"kty": "RSA"}, "cannot be read"),
        ({"kty": "RSA", "n": "AQAB", "e": "AQAB"}, "too short|cannot be read"),
        ({"kty": "RSA", "n": 7, "e": []}, "cannot be read"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "cannot be read"),
        ({"kty": "EC", "crv": "P-999"}, "cannot be read"),
        ({"kty": "OKP", "crv": "X25519", "x": "AA"}, "cannot be read"),
        ({"kty": "??"}, "cannot be read"),
        ({"kty": ["RSA"]}, "cannot be read"),
        ({}, "cannot be read"),
        (7, "it is no object"),
        ({**jwk(RSA, "RS256"), "use": "enc"}, "not meant for signatures"),
        ({**jwk(RSA, "RS256"), "key_ops": ["sign"]}, "not meant for signatures"),
        ({**jwk(RSA, "RS256"), "key_ops": 7}, "not meant for signatures"),
        ({**jwk(RSA, "RS256"), "alg": 7}, "its alg is no text"),
        (jwk(SHORT_RSA, "RS256"), "1024 bits is too short"),
        (jwk(ec.generate_private_key(ec.SECP256K1()), "ES256K"), "not supported"),
    ],
)
def test_keys_that_are_not_used(entry, reason):
    keys, (skipped,) = parse_key_set(json.dumps({"keys": [entry]}).encode())
    assert keys == []
    assert re.search(reason, skipped), skipped


def test_what_a_key_may_be_used_for():
    entries = [
        jwk(RSA, "RS256"),
        jwk(RSA, "RS256", alg="PS384"),
        jwk(RSA, "RS256", alg="HS256"),
        jwk(EC["ES384"], "ES384"),
        jwk(ED25519, "EdDSA", alg="Ed25519"),
        jwk(ED448, "EdDSA"),
    ]
    keys, skipped = parse_key_set(json.dumps({"keys": entries}).encode())
    assert skipped == []
    assert [sorted(key.algorithms) for key in keys] == [
        ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
        ["PS384"],
        [],
        ["ES384"],
        ["EdDSA"],
        ["EdDSA"],
    ]


def test_a_private_key_in_a_key_set_is_used_as_public_one():
    private = jwt.get_algorithm_by_name("RS256").to_jwk(RSA, as_dict=True)
    private.pop("key_ops")
    ((key,), _) = parse_key_set(json.dumps({"keys": [private]}).encode())
    assert isinstance(key.key, rsa.RSAPublicKey)


def test_a_key_set_is_bounded():
    keys, skipped = parse_key_set(json.dumps({"keys": [jwk(ED25519, "EdDSA")] * 150}).encode())
    assert len(keys) == 100
    assert skipped == ["there are more than 100"]


# --- anything ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "kid", "typ", "crit", "b64"), JSON))
CLAIMS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("exp", "nbf", "iat", "aud", "iss", "sub", "jti"), JSON)
)
ANY_TOKEN = (
    st.text(st.characters())
    | st.builds(lambda *parts: ".".join(parts), st.text(), st.text(), st.text())
    | st.builds(raw_token, HEADERS | JSON, CLAIMS | JSON, st.binary(max_size=64))
    | st.builds(lambda header, payload: signed({"alg": "HS256", **header}, payload), HEADERS, CLAIMS | JSON)
)


@given(ANY_TOKEN | JSON)
@settings(deadline=None, max_examples=400)
def test_any_token_is_answered(given_token):
    async def run():
        limits = {"login": {"maxFailedLogins": None}}
        async with tokens(requireExpiry=False, audience=[], config=limits) as login:
            result = await login({"token": given_token})
            assert result in (INVALID, EXPIRED, MISSING) or result.is_valid
            assert not [line for line in login.log.lines if "Error: " in line]

    asyncio.run(run())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 8000, "9" * 16_000])
async def test_a_token_that_is_hard_to_parse(text):
    async with tokens() as login:
        assert await login({"token": raw_token(text.encode(), text.encode())}) == INVALID
        payload = text[:6000].encode()
        assert await login({"token": signed({"alg": "HS256"}, payload)}) == INVALID
        assert login.warnings() == [] or "Recursion" not in repr(login.warnings())


@given(JSON)
@settings(deadline=None, max_examples=200)
def test_any_key_set_is_read_or_refused(value):
    for document in (
        value,
        {"keys": value},
        {"keys": [value]},
        {"keys": [{"kty": "RSA", "n": value, "e": "AQAB"}]},
    ):
        try:
            keys, _ = parse_key_set(json.dumps(document).encode())
        except PluginError:
            continue
        assert all(key.algorithms for key in keys)
