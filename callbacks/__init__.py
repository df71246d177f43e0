"""What watches the training."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from callbacks.pictures import Mistakes, TrainingImages
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress import ProgressBar
from callbacks.run_logger import RunLogger
from callbacks.run_summary import RunSummary
from callbacks.signal_statistics import SignalStatistics
from callbacks.throughput import Throughput
from callbacks.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging

__all__ = [
    "ExponentialMovingAverage",
    "FiniteLoss",
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
