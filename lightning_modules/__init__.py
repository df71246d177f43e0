"""What is trained: the ImageClassifier base, the networks and their parts."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from lightning_modules.cnn import BaselineCNN, OptimizedCNN
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.initialisers import HeUniform, Initialiser
from lightning_modules.preprocessing import MinMaxScaling, Preprocessor
from lightning_modules.schedules import ChainedScheduler, SequentialLR

__all__ = [
    "BaselineCNN",
    "ChainedScheduler",
    "HeUniform",
    "ImageClassifier",
    "Initialiser",
    "MinMaxScaling",
    "OptimizedCNN",
    "Preprocessor",
    "SequentialLR",
]
