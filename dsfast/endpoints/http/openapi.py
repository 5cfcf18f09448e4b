"""The OpenAPI document of the HTTP API, made from the classes that validate its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import dsfast
from dsfast._core.json_text import dumps
from dsfast.endpoints.http.jif import KINDS

if TYPE_CHECKING:
    from dsfast.config.schema import HttpEndpointOptions

__all__ = ["document"]

TEXT = "text/plain"
JSON = "application/json"
NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Percent-encoded; slashes may stay as they are.",
    "schema": {"type": "string", "minLength": 1},
}
NAME_OR_NUMBER = {"type": ["integer", "string"]}
ELEMENT = {
    "type": "object",
    "required": ["success"],
    "properties": {
        "success": {"type": "boolean"},
        "version": {"type": "integer", "minimum": -1},
        "data": {"description": "Of a record, or what a procedure has answered."},
        "users": {"type": ["array", "object"], "description": "User ids, or for each whether it is there."},
        "error": {"description": "What went wrong; of a procedure any value."},
        "errorTopic": {"type": "string"},
        "errorEvent": NAME_OR_NUMBER,
        "errorAction": {"type": "string"},
        "errorParams": {},
        "action": NAME_OR_NUMBER,
        "currentVersion": {"type": "integer"},
        "currentData": {"type": ["object", "array"]},
    },
}
RESULT = {
    "type": "object",
    "required": ["result", "body"],
    "properties": {
        "result": {"enum": ["SUCCESS", "FAILURE", "PARTIAL_SUCCESS"]},
        "body": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}, "minItems": 1},
    },
}
LOGIN_RESULT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"token": {"type": "string"}, "clientData": {}},
}
LOGIN_DATA = {
    "type": ["object", "array"],
    "description": "As the authentication wants it; an array counts as {}.",
}


def document(options: HttpEndpointOptions) -> bytes:
    """The document for an endpoint with these options, as JSON."""
    kinds = [kind for kinds in KINDS.values() for kind in kinds]
    references, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    request: dict[str, Any] = {
        "type": "object",
        "required": ["body"],
        "properties": {
            "body": {
                "type": "array",
                "minItems": 1,
                "maxItems": options.max_batch_length,
                "items": {"oneOf": list(references)},
            },
            "token": {"description": "A non-empty text; without effect beside authData."},
        },
        "if": {"not": {"required": ["authData"]}},
        "then": {"properties": {"token": {"type": "string", "minLength": 1}}},
    }
    if options.allow_auth_data:
        request["properties"]["authData"] = LOGIN_DATA
    else:
        request["properties"]["authData"] = False
    schemas |= {"Request": request, "Result": RESULT, "Answer": ELEMENT}
    paths = {options.post_path: {"post": _batch()}}
    if options.enable_auth_endpoint:
        paths[options.auth_path] = {"post": _login()}
    get = options.get_path
    paths[f"{get}/record/{{name}}"] = {"get": _record()}
    paths[f"{get}/stream/record/{{name}}"] = {"get": _stream("record", "Its versions from now on, whole.")}
    paths[f"{get}/stream/event/{{name}}"] = {"get": _stream("event", "What is emitted from now on.")}
    schemes: dict[str, Any] = {"token": {"type": "http", "scheme": "bearer"}}
    if options.allow_auth_data:
        schemes["password"] = {"type": "http", "scheme": "basic"}
    return dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "dsfast",
                "version": dsfast.__version__,
                "description": "The HTTP API of a deepstream.io compatible realtime server.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": schemes},
        }
    )


def _batch() -> dict[str, Any]:
    return {
        "operationId": "batch",
        "summary": "Run messages as one user",
        "requestBody": _body({"$ref": "#/components/schemas/Request"}),
        "responses": {
            "200": _answer("An answer for each message, in order.", {"$ref": "#/components/schemas/Result"}),
            **_refusals("400", "401", "403", "413", "415"),
        },
    }


def _login() -> dict[str, Any]:
    return {
        "operationId": "login",
        "summary": "Exchange login data for a token",
        "requestBody": _body(LOGIN_DATA, required=False),
        "responses": {
            "200": _answer("What the authentication gives.", LOGIN_RESULT),
            **_refusals("400", "401", "403", "413", "415"),
        },
    }


def _record() -> dict[str, Any]:
    return {
        "operationId": "readRecord",
        "summary": "Read a record or list",
        "security": [{}, {"token": []}],
        "parameters": [
            NAME,
            {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {
                "description": "The data of the record.",
                "headers": {"ETag": {"description": "Its version.", "schema": {"type": "string"}}},
                "content": {JSON: {"schema": {"type": ["object", "array"]}}},
            },
            "304": {"description": "The version is the one in If-None-Match."},
            **_refusals("400", "401", "403", "404", "503", "504"),
        },
    }


def _stream(kind: str, summary: str) -> dict[str, Any]:
    parameters: list[Any] = [NAME]
    if kind == "record":
        version = {"type": "string", "pattern": "^[0-9]{1,15}$"}
        parameters.append({"name": "Last-Event-ID", "in": "header", "schema": version})
    return {
        "operationId": f"stream{kind.capitalize()}",
        "summary": summary,
        "security": [{}, {"token": []}],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Server-sent events; the answer does not end.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **_refusals("400", "401", "403", "404"),
        },
    }


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {JSON: {"schema": schema}}}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


REFUSALS = {
    "400": "The request makes no sense; the text says why.",
    "401": "The login was refused.",
    "403": "Not permitted, or the origin of the page is not allowed.",
    "404": "There is no such record, or the feature is disabled.",
    "413": "The body is too large.",
    "415": "The body is no JSON, or compressed in an unknown way.",
    "503": "The record cannot be read at present.",
    "504": "There was no answer in time.",
}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {
        status: {"description": REFUSALS[status], "content": {TEXT: {"schema": {"type": "string"}}}}
        for status in statuses
    }
