"""The models: the ImageClassifier base, the networks and their parts."""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.initializers import (
    Gaussian,
    HeNormal,
    HeUniform,
    Initializer,
    Orthogonal,
    Uniform,
    XavierNormal,
    XavierUniform,
)
from lightning_modules.layers.attention import CrissCrossAttention, SqueezeExcitation
from lightning_modules.networks.attention_net import AttentionNet
from lightning_modules.networks.baseline_cnn import BaselineCNN
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.optimized_cnn import OptimizedCNN
from lightning_modules.networks.searched_cnn import SearchedCNN
from lightning_modules.optimizers import MuonWithAdamW
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
    "Initializer",
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
