"""Logging goes to stderr, at the level asked for, and libraries stay quiet."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from prelude.logs import About, Fields, about, configure_logging


@pytest.fixture
def request_id() -> Iterator[str]:
    token = about.set(About("r-1"))
    yield "r-1"
    about.reset(token)


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_our_records_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logging.getLogger("prelude.engine").debug("hidden")
    logging.getLogger("prelude.engine").info("shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.endswith("INFO    prelude.engine: shown")


def test_libraries_speak_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").warning("trouble")
    logging.getLogger("prelude").debug("ours")
    assert [line[9:] for line in capsys.readouterr().err.splitlines()] == [
        "WARNING asyncio: trouble",
        "DEBUG   prelude: ours",
    ]


def test_twice_is_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    configure_logging("WARNING")
    logging.getLogger("prelude").info("hidden")
    logging.getLogger("prelude").error("shown")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="Unknown level"):
        configure_logging("LOUD")


def test_lines_of_a_request_say_its_id(request_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logging.getLogger("prelude").info("looked up")
    logging.getLogger("prelude").info(Fields(request_id=request_id, status=200))
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("prelude: looked up [r-1]")
    assert second.endswith("prelude: request_id=r-1 status=200")


def test_values_cannot_pretend_to_be_others(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    fields = Fields(path="/a b\nstatus=200", ms=1.5, reasons=["length", "stop"], none="")
    logging.getLogger("prelude").info(fields)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('path="/a b\\nstatus=200" ms=1.5 reasons="length,stop" none=""')


def test_json_has_an_object_a_line(request_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("prelude.engine").warning("it is %d\nlines", 2)
    logging.getLogger("prelude").info(Fields(path="/ü", ms=1.5, reasons=["stop"]))
    words, fields = objects(capsys)
    assert datetime.fromisoformat(words.pop("time")).utcoffset() is not None
    assert words == {
        "level": "WARNING",
        "logger": "prelude.engine",
        "request_id": "r-1",
        "message": "it is 2\nlines",
    }
    assert (fields["path"], fields["ms"], fields["reasons"]) == ("/ü", 1.5, ["stop"])
    assert "message" not in fields


def test_json_has_exceptions_inside(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("prelude").exception("it failed")
    (line,) = objects(capsys)
    assert line["message"] == "it failed"
    assert line["exception"].startswith("Traceback") and "KeyError: 'x'" in line["exception"]
    assert "request_id" not in line
