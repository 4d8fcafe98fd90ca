"""The start-up bar: drawn for people, silent for logs."""

import io

from rich.console import Console

from prelude.engine.progress import progress_bar


def test_a_terminal_sees_the_phase() -> None:
    screen = io.StringIO()
    with progress_bar(Console(file=screen, force_terminal=True, width=80)) as report:
        report("loading weights", 0.5)
    assert "loading weights" in screen.getvalue()


def test_a_log_file_sees_nothing() -> None:
    log = io.StringIO()
    with progress_bar(Console(file=log, force_terminal=False)) as report:
        report("loading weights", 0.5)
    assert log.getvalue() == ""
