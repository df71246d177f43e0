"""Training callbacks."""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

from callbacks.chosen_precision import ChosenPrecision
from callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from callbacks.fit_diagnosis import FitDiagnosis
from callbacks.pictures import Mistakes, TrainingImages
from callbacks.prediction_writer import PredictionWriter
from callbacks.progress_bar import ProgressBar
from callbacks.run_summary import RunSummary
from callbacks.signal_statistics import SignalStatistics
from callbacks.throughput import Throughput
from callbacks.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging

__all__ = [
    "ChosenPrecision",
    "ExponentialMovingAverage",
    "FiniteLoss",
    "FitDiagnosis",
    "Mistakes",
    "NonFiniteLossError",
    "PredictionWriter",
    "ProgressBar",
    "RunSummary",
    "SignalStatistics",
    "StochasticWeightAveraging",
    "Throughput",
    "TrainingImages",
]
