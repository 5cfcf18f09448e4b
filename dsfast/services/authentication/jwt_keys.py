"""The keys that JSON web tokens are verified with: fixed ones, and published sets that change.

A key knows the algorithms that fit its type, so that no token can choose one that its key was not made for
(a public RSA key is never taken for the secret of an HMAC).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from dsfast._core.json_text import JsonError, loads
from dsfast.plugin import PluginError
from dsfast.services.authentication.web_client import WebError
from dsfast.services.logger import FloodGuard

__all__ = ["FixedKeys", "Keys", "PublishedKeys", "VerifyKey", "parse_key_set", "public_key", "secret_key"]

MAX_KEYS = 100
MIN_RSA_BITS = 2048
_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key, what it may be used for, and the id it is published under."""

    key: Any
    algorithms: frozenset[str]
    kid: str | None = None


class Keys(ABC):
    """Where keys come from."""

    async def prepare(self) -> None:  # noqa: B027 - an optional hook
        """Load what has to be loaded. Raises :class:`PluginError` if that can never work."""

    @abstractmethod
    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """The keys that may have signed a token: all that fit if it names none, or they have no names."""

    async def renew(self) -> bool:
        """Look for new keys because those that there are did not fit; True if there may be others now."""
        return False


class FixedKeys(Keys):
    """Keys from the configuration."""

    def __init__(self, keys: Sequence[VerifyKey]) -> None:
        self._keys = tuple(keys)

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """See :meth:`Keys.find`."""
        return _fitting(self._keys, kid, algorithm)


class PublishedKeys(Keys):
    """A JSON web key set that its owner may replace at any time.

    ``load`` reads it. It is read again when it is older than ``lifetime`` ms, and when a token asks for a
    key that it does not have; but after a reading never before ``interval`` ms have passed, whatever clients
    send. While it cannot be read the keys of the last time hold.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[bytes]],
        *,
        lifetime: int,
        interval: int,
        patience: int,
        guard: FloodGuard,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._load = load
        self._lifetime = lifetime / 1000
        self._interval = interval / 1000
        self._patience = patience / 1000
        self._guard = guard
        self._clock = clock
        self._keys: Sequence[VerifyKey] = ()
        self._loaded_at: float | None = None
        self._tried_at: float | None = None
        self._loading: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Read the set; if that takes longer than ``patience`` ms or fails, it is tried again later."""
        await asyncio.wait([self._start()], timeout=self._patience)

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """See :meth:`Keys.find`."""
        if self._loaded_at is None or self._clock() - self._loaded_at >= self._lifetime:
            await self.renew()
        found = _fitting(self._keys, kid, algorithm)
        if not found and await self.renew():
            found = _fitting(self._keys, kid, algorithm)
        return found

    async def renew(self) -> bool:
        """Read the set again, unless that was done just now. Logins at the same time share one reading."""
        if self._loading is None:
            if self._tried_at is not None and self._clock() - self._tried_at < self._interval:
                return False
            self._start()
        assert self._loading is not None
        await asyncio.wait([self._loading])
        return True

    def _start(self) -> asyncio.Task[None]:
        self._tried_at = self._clock()
        self._loading = asyncio.ensure_future(self._read())
        self._loading.add_done_callback(self._ended)
        return self._loading

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        self._tried_at = self._clock()

    async def _read(self) -> None:
        try:
            keys, skipped = parse_key_set(await self._load())
        except (WebError, OSError, PluginError) as error:
            self._guard.warn("jwt", "AUTH_ERROR", f"jwt auth: the key set cannot be read: {error}")
            return
        for reason in skipped:
            self._guard.warn("jwt", "AUTH_ERROR", f"jwt auth: a key of the key set is not used: {reason}")
        self._keys = keys
        self._loaded_at = self._clock()


def secret_key(secret: str, algorithms: Sequence[str]) -> VerifyKey:
    """The secret of HMAC signatures. Raises :class:`PluginError` for one that can be guessed or misused."""
    key = secret.encode()
    if b"-----BEGIN" in key:
        raise PluginError("secret is a PEM key; public keys belong into publicKey")
    for algorithm in algorithms:
        if len(key) < _SECRET_BYTES.get(algorithm, 0):
            raise PluginError(f"secret must have at least {_SECRET_BYTES[algorithm]} bytes for {algorithm}")
    return VerifyKey(key, frozenset(_SECRET_BYTES))


def public_key(pem: str) -> VerifyKey:
    """A public key, or that of a certificate, from PEM text. Raises :class:`PluginError`."""
    text = pem.encode()
    try:
        if b"-----BEGIN CERTIFICATE-----" in text:
            return _verify_key(x509.load_pem_x509_certificate(text).public_key(), None)
        return _verify_key(serialization.load_pem_public_key(text), None)
    except ValueError:
        hint = ", it is a private key" if b"PRIVATE KEY-----" in text else ""
        raise PluginError(f"publicKey is no PEM public key{hint}") from None


def parse_key_set(text: bytes) -> tuple[list[VerifyKey], list[str]]:
    """The usable keys of a JSON web key set, and why others are not. Raises :class:`PluginError`."""
    try:
        document = loads(text)
    except JsonError:
        raise PluginError("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise PluginError('it has no list "keys"')
    keys: list[VerifyKey] = []
    skipped: list[str] = []
    for entry in entries[:MAX_KEYS]:
        try:
            keys.append(_published_key(entry))
        except PluginError as error:
            skipped.append(str(error))
    if len(entries) > MAX_KEYS:
        skipped.append(f"there are more than {MAX_KEYS}")
    return keys, skipped


def _published_key(entry: Any) -> VerifyKey:
    if not isinstance(entry, dict):
        raise PluginError("it is no object")
    kind = entry.get("kty")
    if kind == "oct":
        # Whoever can read a published set could sign with it.
        raise PluginError("it is a secret")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise PluginError("it is not meant for signatures")
    only = entry.get("alg")
    if only is not None and not isinstance(only, str):
        raise PluginError("its alg is no text")
    material = {key: value for key, value in entry.items() if key != "alg"}
    try:
        key = jwt.PyJWK(material, "EdDSA" if kind == "OKP" else None).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):  # whatever malformed members lead to
        raise PluginError(f"it cannot be read (kty {kind!r})") from None
    if hasattr(key, "public_key"):
        key = key.public_key()
    kid = entry.get("kid")
    found = _verify_key(key, kid if isinstance(kid, str) else None)
    if only is None:
        return found
    algorithm = "EdDSA" if only in ("Ed25519", "Ed448") else only
    return VerifyKey(found.key, found.algorithms & {algorithm}, found.kid)


def _verify_key(key: Any, kid: str | None) -> VerifyKey:
    """A public key with the algorithms of its type. Raises :class:`PluginError`."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise PluginError(f"an RSA key of {key.key_size} bits is too short")
        return VerifyKey(key, _RSA, kid)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _EC:
        return VerifyKey(key, frozenset((_EC[key.curve.name],)), kid)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return VerifyKey(key, frozenset(("EdDSA",)), kid)
    raise PluginError(f"keys of type {type(key).__name__} are not supported")


def _fitting(keys: Sequence[VerifyKey], kid: str | None, algorithm: str) -> list[VerifyKey]:
    return [
        key
        for key in keys
        if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
    ]
