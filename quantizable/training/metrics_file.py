"""``metrics.csv`` of a run: each epoch once, whatever was killed and resumed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from quantizable.report.files import written_whole


class RunCSVLogger(CSVLogger):
    """Lightning's CSV logger begins ``metrics.csv`` anew; this one goes on with that of a resumed run."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir)
        return self._experiment


class MetricsFile(ExperimentWriter):
    """Lightning's writer, which appends rows; a kill while a new column is added loses none."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        file = Path(self.metrics_file_path)
        if file.exists():
            with file.open(newline="") as lines:
                self.metrics_keys = next(csv.reader(lines), [])

    def _check_log_dir_exists(self) -> None:
        """Lightning's removes the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="") as lines:
            _write(Path(self.metrics_file_path), fieldnames, csv.DictReader(lines))


def forget_rows_after(file: Path, checkpoint: Mapping[str, Any]) -> None:
    """Drop what was logged behind the checkpoint that a run resumes from: it will be logged again.

    A kill between a row and the checkpoint of its epoch leaves such rows, or the last of them half-written.

    Args:
        file: ``metrics.csv``, which need not be there.
        checkpoint: of Lightning.
    """
    if not file.exists():
        return
    done = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    text = file.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = csv.DictReader(lines)
    _write(file, list(rows.fieldnames or ()), (row for row in rows if int(row["step"]) < done))


def _write(file: Path, header: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with written_whole(file) as temporary, temporary.open("w", newline="") as target:
        writer = csv.DictWriter(target, header)
        writer.writeheader()
        writer.writerows(rows)
