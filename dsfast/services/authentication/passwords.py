"""Stored passwords: PBKDF2 as deepstream.io writes it, argon2id, and clear text (connection-and-auth.md 6).

Deriving a key is slow on purpose and therefore runs in the threads of hash_pool.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsfast.plugin import PluginError
from dsfast.services.authentication.login_data import well_formed

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = ["Argon2id", "ClearText", "Decoys", "Passwords", "Pbkdf2", "digest_name"]

ARGON2_PREFIX = "$argon2id$"
MAX_ARGON2_MEMORY = 1 << 20
"""KiB that one check may take; a stored text that asks for more matches nothing."""
FEW_ROUNDS = 10_000
_WEAK = ("md5", "md5-sha1", "sha1")


def digest_name(name: str) -> str:
    """The plain name of an OpenSSL digest, which may be given by the name of a signature that uses it.

    ``RSA-SHA512/256``, ``sha512-256WithRSAEncryption`` and ``SHA512-256`` are all ``sha512-256``. An unknown
    name comes back as it is, in lower case.
    """
    plain = name.lower()
    for prefix in ("rsa-", "ssl3-", "id-rsassa-pkcs1-v1_5-with-"):
        plain = plain.removeprefix(prefix)
    for suffix in ("withrsaencryption", "withrsa"):
        plain = plain.removesuffix(suffix)
    plain = plain.replace("/", "-")
    return {"sha1-2": "sha1", "rmd160": "ripemd160", "ripemd": "ripemd160"}.get(plain, plain)


@dataclass(frozen=True, slots=True)
class ClearText:
    """Passwords stored as they are."""

    def hash(self, password: str) -> str:
        """The password."""
        return password

    def matches(self, password: str, stored: str) -> bool:
        """Whether they are equal; the time does not tell how much of them is."""
        return hmac.compare_digest(_sha256(password), _sha256(stored))


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """Base64 of the key, then the text of the salt. ``digest`` is a name that hashlib knows."""

    digest: str
    iterations: int
    key_length: int

    def hash(self, password: str) -> str:
        """A text to store, with a salt of its own."""
        salt = base64.b64encode(secrets.token_bytes(16)).decode()
        return self.derive(password, salt) + salt

    def matches(self, password: str, stored: str) -> bool:
        """Whether ``stored`` was made of this password; any text may be given as ``stored``."""
        size = 4 * ((self.key_length + 2) // 3)
        derived = self.derive(password, stored[size:])
        return hmac.compare_digest(derived.encode(), stored[:size].encode("utf-8", "surrogatepass"))

    def derive(self, password: str, salt: str) -> str:
        """The key as base64. Not the bytes that a salt stands for count, but those of its text."""
        secret, seed = well_formed(password).encode(), well_formed(salt).encode()
        key = hashlib.pbkdf2_hmac(self.digest, secret, seed, self.iterations, self.key_length)
        return base64.b64encode(key).decode()

    def is_plausible(self, stored: str) -> bool:
        """Whether some password may match ``stored``."""
        size = 4 * ((self.key_length + 2) // 3)
        return len(stored) >= size and re.fullmatch("[A-Za-z0-9+/]*={0,2}", stored[:size]) is not None


class Argon2id:
    """PHC strings, ``$argon2id$v=19$m=65536,t=3,p=4$<salt>$<key>``; each names its own cost."""

    def __init__(self) -> None:
        try:
            import argon2  # noqa: PLC0415 - only needed where it is used
        except ImportError:
            raise PluginError(
                "argon2id needs the package argon2-cffi: pip install 'dsfast[argon2]'"
            ) from None
        self._hasher: PasswordHasher = argon2.PasswordHasher()
        self._parameters = argon2.extract_parameters

    def hash(self, password: str) -> str:
        """A text to store, with a salt of its own and the cost that RFC 9106 advises for servers."""
        return self._hasher.hash(well_formed(password))

    def matches(self, password: str, stored: str) -> bool:
        """Whether ``stored`` was made of this password; any text may be given as ``stored``."""
        if not self.is_plausible(stored):
            return False
        try:
            return self._hasher.verify(stored, well_formed(password))
        except Exception:  # the library's own errors: no match, or a text that it cannot read
            return False

    def is_plausible(self, stored: str) -> bool:
        """Whether ``stored`` is well-formed and its cost is bearable."""
        try:
            parameters = self._parameters(stored)
        except Exception:  # the library lets a ValueError out here and there
            return False
        return 0 < parameters.memory_cost <= MAX_ARGON2_MEMORY and 0 < parameters.time_cost <= 1000


class Passwords:
    """How one authentication stores passwords: by its ``hash`` option, and argon2id beside it.

    Raises :class:`PluginError` with the texts of the specification for options that cannot be used.
    """

    def __init__(self, digest: str | None, iterations: int | None, key_length: int | None) -> None:
        self._argon2: Argon2id | None = None
        self._scheme: ClearText | Pbkdf2 | Argon2id
        if digest is None:
            self._scheme = ClearText()
        elif digest.lower() == "argon2id":
            self._scheme = self._argon2 = Argon2id()
        else:
            self._scheme = _pbkdf2(digest, iterations, key_length)

    def hash(self, password: str) -> str:
        """What to store for a password. Slow unless the scheme is clear text."""
        return self._scheme.hash(password)

    def matches(self, password: str, stored: str) -> bool:
        """Whether a stored text belongs to a password; never raises. Slow if :meth:`is_slow`."""
        return self._scheme_of(stored).matches(password, stored)

    def is_slow(self, stored: str) -> bool:
        """Whether checking this text has to happen off the event loop."""
        return not isinstance(self._scheme_of(stored), ClearText)

    def is_plausible(self, stored: str) -> bool:
        """Whether any password at all may match this text."""
        scheme = self._scheme_of(stored)
        return isinstance(scheme, ClearText) or scheme.is_plausible(stored)

    def weaknesses(self) -> list[str]:
        """What is unwise about the way passwords are stored; nothing for argon2id."""
        scheme = self._scheme
        if isinstance(scheme, ClearText):
            return ["passwords are stored as clear text"]
        found = []
        if isinstance(scheme, Pbkdf2):
            if scheme.digest in _WEAK:
                found.append(f"passwords are hashed with {scheme.digest}, which is weak")
            if scheme.iterations < FEW_ROUNDS:
                found.append(f"passwords are hashed with {scheme.iterations} rounds, fewer than {FEW_ROUNDS}")
        return found

    def _scheme_of(self, stored: str) -> ClearText | Pbkdf2 | Argon2id:
        if not stored.startswith(ARGON2_PREFIX):
            return self._scheme
        if self._argon2 is None:
            self._argon2 = Argon2id()
        return self._argon2


class Decoys:
    """Stored passwords to check for names that do not exist.

    Each unknown name gets one of the stored texts, always the same one, so that its check costs what the
    check of a real user's password costs, even where users have passwords of several kinds.
    """

    def __init__(self, stored: Sequence[str]) -> None:
        self._stored = tuple(stored)
        self._secret = secrets.token_bytes(32)

    def choose(self, name: str) -> str:
        """The text for an unknown name."""
        number = hmac.digest(self._secret, name.encode("utf-8", "surrogatepass"), "sha256")
        return self._stored[int.from_bytes(number[:8], "big") % len(self._stored)]


def _pbkdf2(digest: str, iterations: int | None, key_length: int | None) -> Pbkdf2:
    if iterations is None or key_length is None:
        raise PluginError(f"Missing key {'iterations' if iterations is None else 'keyLength'}")
    plain = digest_name(digest)
    try:
        # Only this tells: some digests exist and cannot be used for this.
        hashlib.pbkdf2_hmac(plain, b"", b"", 1, 1)
    except ValueError:
        raise PluginError(f"Unknown Hash {digest}") from None
    return Pbkdf2(plain, iterations, key_length)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
