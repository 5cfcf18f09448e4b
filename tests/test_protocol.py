"""The binary codec against the vectors, against Google's protobuf and against hostile bytes."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast._core.protocol import Message, ParseError, RecordAction, Topic, decode, encode

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors/binary-messages.json").read_text()
)

# name on the wire (protobuf schema of spec section 5) -> attribute of Message
ATTRIBUTES = {
    "topic": "topic",
    "action": "action",
    "data": "data",
    "correlationId": "correlation_id",
    "isError": "is_error",
    "isAck": "is_ack",
    "name": "name",
    "names": "names",
    "subscription": "subscription",
    "originalAction": "original_action",
    "originalTOPIC": "original_topic",
    "url": "url",
    "protocolVersion": "protocol_version",
    "sdkVersion": "sdk_version",
    "sdkType": "sdk_type",
    "pattern": "pattern",
    "isWriteAck": "is_write_ack",
    "path": "path",
    "version": "version",
    "versions": "versions",
    "requestorName": "requestor_name",
    "requestorData": "requestor_data",
    "leaderScore": "leader_score",
    "role": "role",
    "locked": "locked",
    "checksum": "checksum",
    "fullState": "full_state",
    "serverName": "server_name",
    "registryTOPIC": "registry_topic",
}


def message(fields: dict[str, Any]) -> Message:
    values = {ATTRIBUTES[key]: value for key, value in fields.items()}
    if "data" in values:
        values["data"] = values["data"].encode()
    return Message(**values)


def fields(decoded: Message) -> dict[str, Any]:
    values = {key: getattr(decoded, attribute) for key, attribute in ATTRIBUTES.items()}
    present = {key: value for key, value in values.items() if value is not None}
    if "data" in present:
        present["data"] = present["data"].decode()
    return present


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(v, id=f"{v['id']}-{v['description'][:60]}") for v in VECTORS if v["kind"] == kind]


@pytest.mark.parametrize("vector", of_kind("roundtrip"))
def test_vector_roundtrip(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    (decoded,) = decode(raw)
    assert fields(decoded) == vector["fields"]
    assert encode(message(vector["fields"])) == raw


@pytest.mark.parametrize("vector", of_kind("decode"))
def test_vector_decode(vector: dict[str, Any]) -> None:
    expected = vector["fields"] if isinstance(vector["fields"], list) else [vector["fields"]]
    got = [fields(m) for m in decode(bytes.fromhex(vector["hex"]))]
    for one, want in zip(got, expected, strict=True):
        if "action" not in want:
            assert one.pop("action") == 0
        assert one == want


@pytest.mark.parametrize("vector", of_kind("invalid"))
def test_vector_invalid(vector: dict[str, Any]) -> None:
    with pytest.raises(ParseError):
        decode(bytes.fromhex(vector["hex"]))


# --- Google's protobuf as an oracle: an independent schema made from the table of spec section 5

KINDS = {"s": "TYPE_STRING", "b": "TYPE_BOOL", "i": "TYPE_INT32", "S": "TYPE_STRING"}
COMMON = {"action": (1, "i"), "data": (2, "s")}
DOOR = COMMON | {"correlationId": (3, "s"), "isError": (4, "b"), "isAck": (5, "b")}
SCHEMAS: dict[int, dict[str, tuple[int, str]]] = {
    2: COMMON
    | {
        "isError": (3, "b"),
        "isAck": (4, "b"),
        "url": (5, "s"),
        "protocolVersion": (6, "s"),
        "sdkVersion": (7, "s"),
        "sdkType": (8, "s"),
    },
    3: COMMON | {"isError": (3, "b"), "isAck": (4, "b")},
    4: DOOR
    | {
        "name": (6, "s"),
        "names": (7, "S"),
        "subscription": (8, "s"),
        "originalTOPIC": (10, "i"),
        "originalAction": (11, "i"),
    },
    5: DOOR
    | {
        "name": (6, "s"),
        "names": (7, "S"),
        "pattern": (8, "s"),
        "subscription": (9, "s"),
        "originalAction": (10, "i"),
        "isWriteAck": (11, "b"),
        "path": (12, "s"),
        "version": (13, "i"),
    },
    6: DOOR
    | {
        "names": (6, "S"),
        "name": (7, "s"),
        "originalAction": (9, "i"),
        "requestorName": (10, "s"),
        "requestorData": (11, "s"),
    },
    7: {
        "action": (1, "i"),
        "originalTOPIC": (2, "i"),
        "originalAction": (3, "i"),
        "data": (4, "s"),
        "correlationId": (5, "s"),
        "isError": (6, "b"),
        "isAck": (7, "b"),
        "name": (8, "s"),
        "names": (9, "S"),
    },
}


def _oracle_classes() -> dict[int, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="oracle.proto", syntax="proto3")
    for topic, schema in SCHEMAS.items():
        proto = file.message_type.add(name=f"T{topic}")
        for index, (name, (number, kind)) in enumerate(schema.items()):
            field = proto.field.add(name=name, number=number)
            field.type = getattr(descriptor_pb2.FieldDescriptorProto, KINDS[kind])
            if kind == "S":
                field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
            else:
                field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
                field.proto3_optional = True
                field.oneof_index = len(proto.oneof_decl)
                proto.oneof_decl.add(name=f"_{name}{index}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {t: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"T{t}")) for t in SCHEMAS}


ORACLE = _oracle_classes()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
VALUES = {
    "s": TEXT,
    "b": st.booleans(),
    "i": st.integers(-(2**31), 2**31 - 1),
    "S": st.lists(TEXT, min_size=1, max_size=5),
}


@st.composite
def wire_fields(draw: st.DrawFn) -> dict[str, Any]:
    topic = draw(st.sampled_from(sorted(SCHEMAS)))
    schema = SCHEMAS[topic]
    chosen = draw(st.lists(st.sampled_from(sorted(schema)), unique=True))
    return {"topic": topic, "action": draw(st.integers(0, 130))} | {
        name: draw(VALUES[schema[name][1]]) for name in chosen if name != "action"
    }


@given(wire_fields())
@settings(max_examples=500, deadline=None)
def test_same_bytes_and_values_as_protobuf(values: dict[str, Any]) -> None:
    inner = ORACLE[values["topic"]]()
    for name, value in values.items():
        if name == "topic":
            continue
        if isinstance(value, list):
            getattr(inner, name).extend(value)
        else:
            setattr(inner, name, value)
    raw = encode(message(values))
    (decoded,) = decode(raw)
    assert fields(decoded) == values
    body = inner.SerializeToString(deterministic=True)
    assert raw.endswith(body)
    assert ORACLE[values["topic"]].FromString(raw[len(raw) - len(body) :]) == inner


# --- hostile bytes

SEEDS = [bytes.fromhex(v["hex"]) for v in VECTORS]
FUZZ_INPUTS = int(os.environ.get("DSFAST_FUZZ", "50000"))


def test_fuzz_decoder() -> None:
    """Random, mutated and truncated inputs: messages or ParseError; what decodes survives a round trip."""
    rng = random.Random(os.environ.get("DSFAST_FUZZ_SEED", "dsfast"))
    accepted = 0
    for _ in range(FUZZ_INPUTS):
        how = rng.randrange(4)
        if how == 0:
            raw = rng.randbytes(rng.randrange(64))
        else:
            raw = bytearray(rng.choice(SEEDS))
            if how == 1 and raw:
                for _ in range(rng.randrange(1, 4)):
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
            elif how == 2:
                del raw[rng.randrange(len(raw) + 1) :]
            else:
                at = rng.randrange(len(raw) + 1)
                raw[at:at] = rng.randbytes(rng.randrange(1, 8))
                if raw:
                    raw[0] = (len(raw) - 1) & 127
        try:
            decoded = decode(bytes(raw))
        except ParseError:
            continue
        accepted += 1
        for one in decoded:
            assert decode(encode(one)) == [one]
    assert accepted > FUZZ_INPUTS // 100


def test_version_beyond_int32_is_a_parse_error() -> None:
    encode(Message(Topic.RECORD, 18, name="a", version=2**31 - 1))
    with pytest.raises(ParseError):
        decode(encode(Message(Topic.RECORD, 18, name="a", version=2**31)))


def test_invalid_utf8_in_a_name_is_a_parse_error() -> None:
    """Upstream replaces the bytes by U+FFFD, so that two names could become one."""
    good = encode(Message(Topic.EVENT, 2, name="ab"))
    with pytest.raises(ParseError):
        decode(good.replace(b"ab", b"\xff\xfe"))


def test_wrong_wire_type_of_a_known_field_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        decode(bytes.fromhex("0810041a0408023005"))  # name as varint


def test_names_and_versions_in_one_message_stay_apart():
    """An entry of the map, which is no text, must not be taken for a name."""
    message = Message(Topic.RECORD, RecordAction.SUBSCRIBE, names=["a", "b"], versions={"v": -2})
    assert decode(encode(message)) == [message]
    message = Message(Topic.RECORD, RecordAction.SUBSCRIBE, versions={"v": 1})
    assert decode(encode(message))[0].names is None
