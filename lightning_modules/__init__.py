"""What is trained: the ImageClassifier base, the networks and their parts."""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

from lightning_modules.attention import CrissCrossAttention, SqueezeExcitation
from lightning_modules.attention_net import AttentionNet
from lightning_modules.cnn import BaselineCNN, OptimizedCNN
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.initialisers import (
    Gaussian,
    HeNormal,
    HeUniform,
    Initialiser,
    Orthogonal,
    Uniform,
    XavierNormal,
    XavierUniform,
)
from lightning_modules.mlp import MLP
from lightning_modules.optimisers import MuonWithAdamW
from lightning_modules.preprocessing import (
    ClipOutliers,
    ImputeMissing,
    MinMaxScaling,
    PatchWhitening,
    Preprocessor,
    Standardize,
    ZCAWhitening,
)
from lightning_modules.schedules import ChainedScheduler, InverseTime, SequentialLR
from lightning_modules.searched_cnn import SearchedCNN

__all__ = [
    "MLP",
    "AttentionNet",
    "BaselineCNN",
    "ChainedScheduler",
    "ClipOutliers",
    "CrissCrossAttention",
    "Gaussian",
    "HeNormal",
    "HeUniform",
    "ImageClassifier",
    "ImputeMissing",
    "Initialiser",
    "InverseTime",
    "MinMaxScaling",
    "MuonWithAdamW",
    "OptimizedCNN",
    "Orthogonal",
    "PatchWhitening",
    "Preprocessor",
    "SearchedCNN",
    "SequentialLR",
    "SqueezeExcitation",
    "Standardize",
    "Uniform",
    "XavierNormal",
    "XavierUniform",
    "ZCAWhitening",
]
