"""A progress bar for start-up, where somebody is watching."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Report]:
    """Yields ``report(phase, fraction)``, drawn on standard error and gone when done; silent where
    that is no terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda phase, fraction: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda phase, fraction: bars.update(task, description=phase, completed=fraction)
