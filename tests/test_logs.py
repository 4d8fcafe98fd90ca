"""Logging goes to stderr, at the level asked for, and libraries stay quiet."""

import logging

import pytest

from prelude.logs import configure_logging


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
