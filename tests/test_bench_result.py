"""The result format: one line of JSON that decodes to what was encoded, by version."""

import json
from typing import Any

import msgspec
import pytest

from prelude.bench.result import RESULT_VERSION, Environment, Result, decode, encode
from tests.bench_results import engine_result, peer_result, serve_result

RESULTS = [serve_result(), engine_result(), peer_result()]
NAMES = ["serve", "engine", "peers"]
# What the measuring rules ask every result to carry.
REQUIRED = {"command", "versions", "host_cpu", "probe", "quiet", "processes", "load_before"}


@pytest.mark.parametrize("result", RESULTS)
def test_round_trip_in_one_line(result: Result) -> None:
    line = encode(result)
    assert b"\n" not in line
    assert decode(line) == result


@pytest.mark.parametrize(("result", "name"), list(zip(RESULTS, NAMES, strict=True)))
def test_a_document_names_itself(result: Result, name: str) -> None:
    document = json.loads(encode(result))
    assert document["benchmark"] == name
    assert document["version"] == RESULT_VERSION
    assert document["environment"].keys() >= REQUIRED


def properties(kind: type) -> dict[str, Any]:
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/{name}")
    found: dict[str, Any] = definitions[schema["$ref"].removeprefix("#/")]["properties"]
    return found


def test_the_schema_lists_the_circumstances() -> None:
    assert properties(Environment).keys() >= REQUIRED


def test_another_version_is_refused() -> None:
    document = json.loads(encode(serve_result())) | {"version": RESULT_VERSION + 1}
    with pytest.raises(ValueError, match="use the Prelude release that wrote it"):
        decode(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{}", '{"benchmark": "other"}', '{"benchmark": "serve"}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_sample_leaves_out_what_it_has_not() -> None:
    (sample,) = json.loads(encode(serve_result()))["samples"]
    assert "failure" not in sample
    assert sample["ttft_ms"] == 11.0
