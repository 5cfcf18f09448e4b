"""What JSON checking and record paths cost: ``pytest bench/micro/test_json_micro.py``.

The figures of ``check`` include about 25 ns for the call from Python, which the message path does not pay.
"""

import json

import pytest

from dsfast._core.json_path import apply_multi, erase_value, set_value
from dsfast._core.json_text import check, dumps, is_utf8, loads

TEXTS = {
    "one digit": b"1",
    "string 64": b'"' + b"x" * 62 + b'"',
    "object 64": b'{"x":1,"y":2,"name":"hello world","ok":true,"list":[1,2,3],"z":0}',
    "string 64 KiB": b'"' + b"x" * 65_534 + b'"',
    "cjk 60 KB": ('"' + "漢字" * 10_000 + '"').encode(),
    "document 70 KB": json.dumps(
        [{"id": i, "name": f"user {i}", "tags": ["a", "b"]} for i in range(1500)]
    ).encode(),
}


@pytest.mark.parametrize("name", TEXTS)
def test_check(benchmark, name):
    assert benchmark(check, TEXTS[name]) > 0


def test_utf8_of_a_name(benchmark):
    assert benchmark(is_utf8, b"weather/europe/berlin/mitte")


@pytest.mark.parametrize("name", ["object 64", "document 70 KB"])
def test_loads(benchmark, name):
    assert benchmark(loads, TEXTS[name])


@pytest.mark.parametrize("name", ["object 64", "document 70 KB"])
def test_dumps(benchmark, name):
    assert benchmark(dumps, loads(TEXTS[name]))


@pytest.mark.parametrize("size", [1, 100_000], ids=["small record", "large record"])
@pytest.mark.parametrize("path", ["name", "a.b.c", "list[1].x"])
def test_set(benchmark, size, path):
    root = {f"k{i}": i for i in range(size)}
    benchmark(set_value, root, path, 1)


def test_erase(benchmark):
    benchmark(erase_value, {"a": {"b": 1}}, "a.b")


def test_multi_of_ten(benchmark):
    root = {f"k{i}": i for i in range(10)}
    benchmark(apply_multi, root, [(f"k{i}", True, i) for i in range(10)])
