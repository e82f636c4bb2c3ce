"""A run of the course as it happens: a live table in a terminal, a line a notebook elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .results import NotebookResult

if TYPE_CHECKING:
    from .papermill_engine import Progress


class View:
    """Shows the notebooks' progress on a console while the with block lasts."""

    def __init__(self, console: Any, progress: "Sequence[Progress]") -> None:
        """Prepare the view.

        Args:
            console: a rich console; None shows nothing.
            progress: one a notebook, in order; read again and again.
        """
        self._console, self._progress = console, progress
        self._live: Any = None
        self._failures: list[str] = []

    def __enter__(self) -> "View":
        if self._console is not None and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            for line in self._failures:
                self._print(line)

    def finished(self, progress: "Progress", result: NotebookResult) -> None:
        """Tell that a notebook is done: a line at once, or below the table when it failed.

        Args:
            progress: of this notebook.
            result: what became of it.
        """
        if self._console is None:
            return
        if self._live is not None:
            if not result.passed:
                self._failures.append(f"{progress.notebook} {result.status}: {result.message}")
            return
        parts = [
            f"{progress.notebook}: {progress.status}",
            f"{result.claims_held} claims held",
            f"{result.minutes:.1f} min",
            f"peak {result.peak_rss_gb:.1f} GB",
            *filter(None, [result.message]),
        ]
        self._print(", ".join(" ".join(part.split()) for part in parts))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Any:
        from rich.table import Column, Table

        names = ("cell", "minutes", "memory now (GB)", "peak (GB)")
        table = Table("notebook", *(Column(name, justify="right") for name in names), "status")
        for one in self._progress:
            begun = one.began > 0
            table.add_row(
                one.notebook,
                f"{one.cell}/{one.cells}" if one.cells else "",
                f"{one.minutes:.1f}" if begun else "",
                f"{one.memory_gb:.1f}" if one.status == "running" else "",
                f"{one.peak_gb:.1f}" if begun else "",
                one.status,
            )
        return table
