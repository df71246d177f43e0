"""Studies of many trainings: search spaces, samplers, the queue of trials, reports."""

import foundation

# Before Lightning, which imports torchmetrics.
import foundation.workarounds.torchmetrics_plots  # noqa: F401  isort: skip

# Before Optuna and rich: typing answers `int | float` with the union that it met first, and after
# their `float | int` the parser would read `--trainer.limit_val_batches 1` as 1.0, all batches.
import lightning.pytorch  # noqa: F401
