"""The textbook's optimized CNN: the baseline with the techniques on."""

from typing import Any

from jsonargparse import lazy_instance

from lightning_modules.initializers import HeUniform, Initializer
from lightning_modules.layers.norm import NormName
from lightning_modules.networks.baseline_cnn import BaselineCNN


class OptimizedCNN(BaselineCNN):
    """:class:`BaselineCNN` with the tutorial's techniques on: norm, dropout, He-uniform weights.

    For FashionMNIST: conv 1→32 3×3, ReLU, batch norm, max-pool 2, conv 32→64 3×3, ReLU, batch norm,
    max-pool 2, linear 3136→128, ReLU, dropout 0.5, linear 128→10. There is no code here: everything
    it changes is an argument, so that each can be switched off.

    Args:
        norm: see :class:`BaselineCNN`.
        dropout: see :class:`BaselineCNN`.
        initializer: see :class:`ImageClassifier`.
        kwargs: see :class:`BaselineCNN` and :class:`ImageClassifier`.
    """

    def __init__(
        self,
        norm: NormName | None = "batch",
        dropout: float = 0.5,
        initializer: Initializer | None = lazy_instance(HeUniform),  # noqa: B008  (this is its use)
        **kwargs: Any,
    ) -> None:
        super().__init__(norm=norm, dropout=dropout, initializer=initializer, **kwargs)
