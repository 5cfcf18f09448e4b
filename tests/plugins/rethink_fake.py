"""A stand-in for RethinkDB: its protocol (handshake included) and the terms that the storage uses, in memory.

No server package exists for the test machines. The real driver talks to this one over a socket, and queries,
functions for conflicts included, are evaluated here as the server would.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import struct
from typing import Any

MAKE_ARRAY, VAR, DB, TABLE, GET, GET_ALL = 2, 10, 14, 15, 16, 78
LE, BRANCH, FUNC, DEFAULT, JSON, BRACKET = 20, 65, 69, 92, 98, 170
INSERT, DELETE, DB_CREATE, TABLE_CREATE, WAIT = 56, 54, 57, 60, 177
SUCCESS_ATOM, RUNTIME_ERROR, OP_FAILED, NON_EXISTENCE = 1, 18, 4_100_000, 3_100_000


class ReqlError(Exception):
    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class FakeRethink:
    """``async with FakeRethink() as server``: listens on ``server.port``."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.databases: dict[str, dict[str, dict[str, Any]]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.options: list[dict[str, Any]] = []
        self.errors: list[ReqlError] = []
        """Errors to answer the next writes with instead of carrying them out."""
        self.port = 0

    async def __aenter__(self) -> FakeRethink:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def table(self, name: str, database: str = "deepstream", key: str = "ds_id") -> dict[str, Any]:
        """The documents of a table by primary key; made if it is missing."""
        self.keys.setdefault((database, name), key)
        return self.databases.setdefault(database, {}).setdefault(name, {})

    # ---- the wire

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._handshake(reader, writer):
                while True:
                    token, size = struct.unpack("<qL", await reader.readexactly(12))
                    answer = json.dumps(self._answer(json.loads(await reader.readexactly(size)))).encode()
                    writer.write(struct.pack("<qL", token, len(answer)) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        def say(**answer: Any) -> None:
            writer.write(json.dumps(answer).encode() + b"\0")

        assert await reader.readexactly(4) == struct.pack("<L", 0x34C2BDC3)
        say(success=True, min_protocol_version=0, max_protocol_version=0, server_version="2.4.4")
        first = json.loads((await reader.readuntil(b"\0"))[:-1])["authentication"].removeprefix("n,,")
        nonce = first.partition(",r=")[2] + "server"
        salt = b"salt"
        server_first = f"r={nonce},s={base64.b64encode(salt).decode()},i=1"
        say(success=True, authentication=server_first)
        final = json.loads((await reader.readuntil(b"\0"))[:-1])["authentication"]
        without_proof, _, proof = final.partition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, 1)
        message = f"{first},{server_first},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != expected:
            say(success=False, error_code=12, error="Wrong password")
            return False
        server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        say(success=True, authentication=f"v={base64.b64encode(server_signature).decode()}")
        return True

    def _answer(self, query: list[Any]) -> dict[str, Any]:
        try:
            _, term, options = query
            database = self._name(options["db"][1][0]) if "db" in options else "test"
            return {"t": SUCCESS_ATOM, "r": [self._run(term, {}, database)]}
        except ReqlError as error:
            return {"t": RUNTIME_ERROR, "e": error.kind, "r": [str(error)], "b": []}

    @staticmethod
    def _name(value: Any) -> str:
        assert isinstance(value, str)
        return value

    # ---- terms

    def _run(self, term: Any, variables: dict[int, Any], database: str) -> Any:
        if isinstance(term, dict):
            return {key: self._run(value, variables, database) for key, value in term.items()}
        if not isinstance(term, list):
            return term
        kind, arguments = term[0], term[1] if len(term) > 1 else []
        options = term[2] if len(term) > 2 else {}

        def value(index: int) -> Any:
            return self._run(arguments[index], variables, database)

        if kind == MAKE_ARRAY:
            return [self._run(argument, variables, database) for argument in arguments]
        if kind == VAR:
            return variables[arguments[0]]
        if kind == JSON:
            return json.loads(value(0))
        if kind == LE:
            return value(0) <= value(1)
        if kind == BRANCH:
            return value(1) if value(0) else value(2)
        if kind == BRACKET:
            inner = value(0)
            if not isinstance(inner, dict) or arguments[1] not in inner:
                raise ReqlError(NON_EXISTENCE, f"No attribute `{arguments[1]}` in object")
            return inner[arguments[1]]
        if kind == DEFAULT:
            try:
                return value(0)
            except ReqlError as error:
                if error.kind != NON_EXISTENCE:
                    raise
                return value(1)
        return self._statement(kind, arguments, options, variables, database)

    def _statement(
        self, kind: int, arguments: list[Any], options: dict[str, Any], variables: Any, database: str
    ) -> Any:
        if kind == DB_CREATE:
            if arguments[0] in self.databases:
                raise ReqlError(OP_FAILED, f"Database `{arguments[0]}` already exists.")
            self.databases[arguments[0]] = {}
            return {"dbs_created": 1}
        if kind == TABLE_CREATE:
            if arguments[0] in self.databases[database]:
                raise ReqlError(OP_FAILED, f"Table `{database}.{arguments[0]}` already exists.")
            self.options.append(options)
            self.table(arguments[0], database, options["primary_key"])
            return {"tables_created": 1}
        if kind == WAIT:
            return {"ready": 1}
        if kind == GET:
            return self._documents(arguments[0], database)[1].get(arguments[1])
        if kind == DELETE:
            self.options.append(options)
            source = arguments[0]
            assert source[0] == GET_ALL
            _, documents = self._documents(source[1][0], database)
            for key in source[1][1:]:
                documents.pop(key, None)
            return {"errors": 0, "deleted": 1}
        assert kind == INSERT, kind
        self.options.append(options)
        if self.errors:
            raise self.errors.pop(0)
        return self._insert(arguments, options, variables, database)

    def _insert(self, arguments: list[Any], options: dict[str, Any], variables: Any, database: str) -> Any:
        primary, documents = self._documents(arguments[0], database)
        errors = []
        for document in self._run(arguments[1], variables, database):
            key = document[primary]
            if len(key.encode("utf-16-le")) // 2 > 127:
                errors.append("Primary key too long")
                continue
            old, conflict = documents.get(key), options["conflict"]
            if old is not None and conflict != "replace":
                (_, (_, names), body) = (conflict[0], conflict[1][0], conflict[1][1])
                bound = dict(zip(names, (key, old, document), strict=True))
                document = self._run(body, bound, database)  # noqa: PLW2901 - as the server
            documents[key] = document
        return {"errors": len(errors), **({"first_error": errors[0]} if errors else {})}

    def _documents(self, term: Any, database: str) -> tuple[str, dict[str, Any]]:
        assert term[0] == TABLE
        name = term[1][-1]
        tables = self.databases.get(database, {})
        if name not in tables:
            raise ReqlError(OP_FAILED, f"Table `{database}.{name}` does not exist.")
        return self.keys[database, name], tables[name]
