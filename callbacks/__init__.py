"""What watches the training."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from typing import TYPE_CHECKING, Any

from callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from callbacks.pictures import Mistakes, TrainingImages
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress import ProgressBar
from callbacks.run_logger import RunLogger
from callbacks.run_summary import RunSummary
from callbacks.signal_statistics import SignalStatistics
from callbacks.throughput import Throughput
from callbacks.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging

if TYPE_CHECKING:
    from callbacks.fit_diagnosis import FitDiagnosis

__all__ = [
    "ExponentialMovingAverage",
    "FiniteLoss",
    "FitDiagnosis",
    "Mistakes",
    "NonFiniteLossError",
    "PredictionWriter",
    "ProgressBar",
    "RunLogger",
    "RunSummary",
    "SignalStatistics",
    "StochasticWeightAveraging",
    "Throughput",
    "TrainingImages",
]


def __getattr__(name: str) -> Any:
    """Import what is a command too only when it is asked for: Python warns of the other order."""
    if name != "FitDiagnosis":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from callbacks.fit_diagnosis import FitDiagnosis

    return FitDiagnosis
