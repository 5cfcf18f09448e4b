"""Authentication ``jwt``: JSON web tokens (docs/authentication.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsfast.config.schema import JwtAuthOptions
from dsfast.plugin import UNSET, AuthResult, PluginError
from dsfast.services.authentication.combiner import FAR
from dsfast.services.authentication.credentials import CredentialAuthentication, read_options
from dsfast.services.authentication.login_data import id_text
from dsfast.services.authentication.web_client import WebClient, WebError, shown_url

try:
    import jwt

    from dsfast.services.authentication.jwt_keys import (
        FixedKeys,
        Keys,
        PublishedKeys,
        VerifyKey,
        public_key,
        secret_key,
    )
except ImportError:
    raise PluginError(
        "jwt auth needs the packages PyJWT and cryptography: pip install 'dsfast[jwt]'"
    ) from None

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["JwtAuthentication"]

MAX_TOKEN = 16 * 1024
"""Longest token, in characters."""
MAX_KEY_SET = 1 << 20
INVALID = "invalid token"
EXPIRED = "token expired"


class JwtAuthentication(CredentialAuthentication):
    """Verifies the token of the login and takes user id and data from its claims."""

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        given = read_options(JwtAuthOptions, options)
        super().__init__(given, services, config)
        self._given = given
        self._web: WebClient | None = None
        self._algorithms = frozenset(given.algorithms)
        self._issuer = given.issuer or None
        self._audience = given.audience or None
        self._skew = given.clock_skew / 1000
        self._checks: Any = {
            "require": ["exp"] if given.require_expiry else [],
            "verify_aud": bool(given.audience),
            # Whatever is the user id is looked at here, and some issuers number their users.
            "verify_sub": False,
        }
        self._keys = self._make_keys(given)

    @property
    def description(self) -> str:  # type: ignore[override]
        """Names where the keys come from."""
        given = self._given
        source = shown_url(given.jwks_url) if given.jwks_url else given.jwks_file
        source = source or ("a secret" if given.secret else "a public key")
        return f"JSON web tokens ({', '.join(given.algorithms)}) verified with {source}"

    def init(self) -> None:
        """Warn about settings that let in more tokens than meant."""
        if self._audience is None:
            self._warn("no audience is set, so tokens for other services of the issuer are accepted")
        if self._given.token_cookie and self.config.http.allow_all_origins:
            self._warn("tokenCookie with allowAllOrigins lets every web page act for who visits it")

    async def when_ready(self) -> None:
        """Read the key set, if there is one."""
        await self._keys.prepare()

    async def close(self) -> None:
        """End the connections to the key server."""
        if self._web is not None:
            await self._web.close()
        await super().close()

    async def is_valid_user(self, connection_data: Mapping[str, Any], auth_data: Any) -> AuthResult | None:
        """Verify the token; with ``endOnExpiry`` the login ends with it."""
        token = self._token(connection_data, auth_data)
        if token is None:
            return self.refusal(f"missing authentication parameter: {self._given.token_parameter}")
        try:
            claims = await self._verify(token)
        except jwt.ExpiredSignatureError:
            return self.refusal(EXPIRED)
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            self.logger.debug("AUTH_ERROR", f"jwt auth: {type(error).__name__}")
            return self.refusal(INVALID)
        user_id = id_text(claims.get(self._given.id_claim))
        if not user_id:
            self._warn(f"a valid token was refused, because its claim {self._given.id_claim} is no user id")
            return self.refusal(INVALID)
        return AuthResult(
            True,
            id=user_id,
            client_data=_selected(claims, self._given.client_data_claims) or UNSET,
            server_data=_selected(claims, self._given.server_data_claims),
            token=token,
            expires=self._end(claims) if self._given.end_on_expiry else None,
        )

    def _end(self, claims: dict[str, Any]) -> float | None:
        """When the login ends, as unix time; None if it does not."""
        expiry = int(claims.get("exp", FAR))
        return None if expiry >= FAR else expiry + self._skew

    async def _verify(self, token: str) -> dict[str, Any]:
        """The claims of a token. Raises what PyJWT raises, and what strange claims may lead to."""
        if len(token) > MAX_TOKEN:
            raise jwt.DecodeError
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        # What "crit" lists has to be understood by who accepts the token, and nothing is here.
        if algorithm not in self._algorithms or "crit" in header or not isinstance(kid, str | None):
            raise jwt.InvalidAlgorithmError
        keys = await self._keys.find(kid, algorithm)
        try:
            return self._decode(token, keys, algorithm)
        except jwt.InvalidSignatureError:
            # A token that does not name its key may be signed with a new one.
            if kid is not None or not await self._keys.renew():
                raise
        return self._decode(token, await self._keys.find(kid, algorithm), algorithm)

    def _decode(self, token: str, keys: Sequence[VerifyKey], algorithm: str) -> dict[str, Any]:
        for key in keys:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key.key,
                    algorithms=[algorithm],
                    options=self._checks,
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._skew,
                )
            except jwt.InvalidSignatureError:
                continue
            return claims
        raise jwt.InvalidSignatureError

    def _token(self, connection_data: Mapping[str, Any], auth_data: Any) -> str | None:
        """The token, wherever the options let it be."""
        if isinstance(auth_data, Mapping):
            token = auth_data.get(self._given.token_parameter)
            if isinstance(token, str) and token:
                return token
        headers = connection_data.get("headers") or {}
        if self._given.token_header is not None:
            value = str(headers.get(self._given.token_header.lower(), "")).strip()
            scheme, _, rest = value.partition(" ")
            if found := rest.strip() if scheme.lower() == "bearer" else value:
                return found
        if self._given.token_cookie is not None:
            return _cookie(headers.get("cookie", ""), self._given.token_cookie)
        return None

    def _make_keys(self, given: JwtAuthOptions) -> Keys:
        sources = [given.secret, given.public_key, given.jwks_url, given.jwks_file]
        if sum(source is not None for source in sources) != 1:
            raise PluginError("jwt auth: give exactly one of secret, publicKey, jwksUrl, jwksFile")
        try:
            if given.secret is not None:
                keys = [secret_key(given.secret, given.algorithms)]
            elif given.public_key is not None:
                keys = [public_key(self._pem_text(given.public_key))]
            else:
                return self._published(given)
            for algorithm in given.algorithms:
                if algorithm not in keys[0].algorithms:
                    raise PluginError(f"the key that is given does not fit the algorithm {algorithm}")
        except PluginError as error:
            raise PluginError(f"jwt auth: {error}") from None
        return FixedKeys(keys)

    def _published(self, given: JwtAuthOptions) -> Keys:
        for algorithm in given.algorithms:
            if algorithm.startswith("HS"):
                raise PluginError(f"{algorithm} needs secret, a key set has public keys only")
        if given.jwks_url is not None:
            self._web = WebClient(timeout=given.jwks_request_timeout, max_size=MAX_KEY_SET)
        else:
            self._file = self._path(given.jwks_file or "")
            if not self._file.is_file():
                raise PluginError(f"jwksFile {self._file} does not exist")
        return PublishedKeys(
            self._load_key_set,
            lifetime=given.jwks_cache_lifetime,
            interval=given.jwks_refresh_interval,
            patience=self.config.dependency_initialization_timeout // 2,
            guard=self._guard,
        )

    async def _load_key_set(self) -> bytes:
        if self._web is None:
            return await asyncio.to_thread(_read_file, self._file)
        url = self._given.jwks_url or ""
        answer = await self._web.request("GET", url, headers={"Accept": "application/json"})
        if answer.status != 200:
            raise WebError(f"{shown_url(url)} answers {answer.status}")
        return answer.body

    def _pem_text(self, given: str) -> str:
        """A key that was given as text or as the path of its file. Raises :class:`PluginError`."""
        if "-----BEGIN" in given:
            return given
        try:
            return _read_file(self._path(given)).decode("ascii", "replace")
        except OSError as error:
            raise PluginError(f"publicKey {given}: {error.strerror or error}") from None

    def _path(self, given: str) -> Path:
        """A path of the configuration, relative to its file."""
        return Path(self.config.source.directory or ".") / given

    def _warn(self, text: str) -> None:
        self._guard.warn("jwt", "AUTH_ERROR", f"jwt auth: {text}")


def _selected(claims: dict[str, Any], wanted: dict[str, str] | list[str] | None) -> dict[str, Any]:
    """Some of the claims, perhaps under other names; None stands for all of them."""
    if wanted is None:
        return claims
    names = wanted if isinstance(wanted, dict) else {name: name for name in wanted}
    return {key: claims[claim] for key, claim in names.items() if claim in claims}


def _cookie(header: str, wanted: str) -> str | None:
    for part in header.split(";"):
        name, found, value = part.partition("=")
        if found and name.strip() == wanted:
            return value.strip().strip('"') or None
    return None


def _read_file(file: Path) -> bytes:
    if file.stat().st_size > MAX_KEY_SET:
        raise PluginError(f"{file} is larger than {MAX_KEY_SET} bytes")
    return file.read_bytes()
