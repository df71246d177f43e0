"""Preprocessing: from pixels in 0…1 to what the first layer sees.

A preprocessor is a module inside the classifier. It is fitted once, on the raw training images
only, and keeps what it learnt in buffers, so that a checkpoint carries its own statistics.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Preprocessor(nn.Module, ABC):
    """Base class of preprocessors: ``fit`` once on training images, then ``forward``."""

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Learn the statistics of ``images``: uint8 ``[N, C, H, W]`` in 0…255, training only."""
        self.fit_statistics(images)
        self.fitted.fill_(True)

    @abstractmethod
    def fit_statistics(self, images: Tensor) -> None:
        """Set the buffers from ``images``: uint8 ``[N, C, H, W]`` in 0…255."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Preprocess ``images``: float ``[N, C, H, W]`` in 0…1; same shape out."""


class MinMaxScaling(Preprocessor):
    """Scale so that the training set's darkest pixel is -1 and its brightest is 1.

    On MNIST and FashionMNIST, whose pixels span 0…255, this is the usual
    ``Normalize(mean=0.5, std=0.5)``.
    """

    minimum: Tensor
    maximum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("minimum", torch.tensor(0.0))
        self.register_buffer("maximum", torch.tensor(1.0))

    def fit_statistics(self, images: Tensor) -> None:
        self.minimum.copy_(images.min() / 255)
        self.maximum.copy_(images.max() / 255)

    def forward(self, images: Tensor) -> Tensor:
        # The floor keeps a blank training set from dividing by zero.
        span = (self.maximum - self.minimum).clamp_min(1 / 255)
        return (images - self.minimum) * (2 / span) - 1
