"""The logger of a run's folder: TensorBoard events and metrics.csv."""

import csv
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from foundation.whole_file import write


class _AppendingWriter(ExperimentWriter):
    """Lightning's CSV writer, but a resumed run goes on with its file instead of deleting it.

    Args:
        log_dir: folder of the file.
        resumed_at: rows from this step on are left out; the run does those steps again.
    """

    def __init__(self, log_dir: str, resumed_at: int | None) -> None:
        self.resumed_at = resumed_at
        super().__init__(log_dir)

    @override
    def _check_log_dir_exists(self) -> None:
        if not os.path.isfile(self.metrics_file_path):
            return
        text = Path(self.metrics_file_path).read_text()
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row
        reader = csv.DictReader(io.StringIO(whole))
        rows = list(reader)
        self.metrics_keys = list(reader.fieldnames or [])
        kept = [row for row in rows if self._is_before(row)]
        if len(kept) < len(rows) or whole != text:
            self._write(kept)

    def _is_before(self, row: dict[str, str]) -> bool:
        return self.resumed_at is None or int(row["step"]) < self.resumed_at

    @override
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            self._write(list(csv.DictReader(file)))

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write(Path(self.metrics_file_path), text.getvalue())

    @override
    def save(self) -> None:
        """Add the new rows; where the disk is full, none by half."""
        keys = list(self.metrics_keys)
        try:
            super().save()
        except OSError:
            self.metrics_keys = keys  # the header is as it was
            path = Path(self.metrics_file_path)
            with suppress(OSError), path.open("rb+") as file:
                if not file.truncate(file.read().rfind(b"\n") + 1):
                    path.unlink()
            raise


class RunLogger(TensorBoardLogger):
    """Log to ``<save_dir>/<name>/version_<N>``: TensorBoard events and ``metrics.csv``.

    Args:
        save_dir: folder of all runs.
        name: the experiment; may contain ``/``.
        version: None claims the next free number, safely among processes that start at once; an
            existing ``version_<N>`` goes on in that folder.
        resumed_at: step from which on what is there does not count, since it is done again.
    """

    def __init__(
        self, save_dir: str, name: str, version: str | None = None, resumed_at: int | None = None
    ) -> None:
        super().__init__(
            save_dir, name=name, version=version, default_hp_metric=False, purge_step=resumed_at
        )
        self._resumed_at = resumed_at
        self._csv: _AppendingWriter | None = None

    @override
    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        if (
            getattr(rank_zero_only, "rank", 0) != 0
        ):  # only rank zero writes, and tells the others where
            return version
        while True:
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
                return version
            except FileExistsError:
                version += 1

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if any(name.startswith("reached/") for name in metrics):
            return  # belongs to the HPARAMS tab, not to a curve
        if self._csv is None:
            self._csv = _AppendingWriter(self.log_dir, self._resumed_at)
        self._csv.log_metrics(metrics, step)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Called by Lightning now and then, and before each ``last.ckpt``."""
        super().save()
        if self._experiment is not None:
            self._experiment.flush()
        if self._csv is not None:
            self._csv.save()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._csv is not None:
            self._csv.save()
        super().finalize(status)
