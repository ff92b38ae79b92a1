"""The history of a run as files: a CSV table, and events for TensorBoard."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.training.fit import History


class MetricsWriter:
    """Writes ``metrics.csv`` and TensorBoard event files into a folder.

    The table is written whole each time, under a temporary name, forced to the disk and renamed.
    Of a run that goes on from a checkpoint, TensorBoard shows what came after it once.

    Args:
      folder: made if it is not there.
      metric: the name of the metric, for TensorBoard.

    >>> import tempfile
    >>> rows = History(*np.array([[0, 10], [np.nan, 0.7], [1, 0.8], [0.5, 0.75], [np.nan, -1]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with MetricsWriter(folder) as writer:
    ...         writer.write(rows)
    ...     print(Path(folder, "metrics.csv").read_text().splitlines()[2])
    10,0.7,0.8,0.75,-1
    """

    def __init__(self, folder: str | Path, metric: str = "metric") -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metric = metric
        self._events: Any = None
        self._written = 0

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._events is not None:
            self._events.close()

    def write(self, history: History) -> None:
        """Brings both up to date with a history."""
        columns = np.stack([np.asarray(column, float) for column in history], axis=1)
        rows = columns[~np.isnan(columns[:, 0])]
        self._write_table(rows)
        self._write_events(rows)

    def _write_table(self, rows: np.ndarray) -> None:
        buffer = io.StringIO()
        header = ",".join(History._fields)
        np.savetxt(buffer, rows, fmt="%.9g", delimiter=",", header=header, comments="")
        path = self.folder / "metrics.csv"
        partial = self.folder / f".{path.name}.partial"
        with open(partial, "w") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _write_events(self, rows: np.ndarray) -> None:
        if self._events is None:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

            # What an earlier start wrote from here on is shown no more.
            self._events = SummaryWriter(str(self.folder), purge_step=int(rows[-1, 0]))
            first = len(rows) - 1
        else:
            first = self._written
        names = [field if field != "metric" else self.metric for field in History._fields[1:]]
        for row in rows[first:]:
            for name, value in zip(names, row[1:], strict=True):
                if np.isfinite(value):
                    self._events.add_scalar(name, value, int(row[0]))
        self._events.flush()
        self._written = len(rows)
