"""The multilayer perceptron."""

import math
from typing import Any

from torch import Tensor, nn

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.layers.activation import Activation
from lightning_modules.layers.hidden import check_dropout, check_sizes, hidden_layers
from lightning_modules.layers.norm import NormName


class MLP(ImageClassifier):
    """One hidden layer: pixels → ``hidden_size`` → classes, logits out.

    A tutorial form ends in a softmax *and* trains with the cross-entropy, which takes the softmax
    itself: twice over, gradients shrink and probabilities cannot come near 0 or 1. This one ends
    in logits.

    Args:
        hidden_size: units of the hidden layer.
        activation: class of the activation, e.g. ``torch.nn.GELU``.
        norm: normalization after the activation. See
            :func:`lightning_modules.layers.norm.norm_layer`.
        dropout: probability of dropping a hidden unit, in [0, 1).
        kwargs: see :class:`ImageClassifier`.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), or a norm that needs feature maps.
    """

    def __init__(
        self,
        hidden_size: int = 128,
        activation: Activation = nn.ReLU,
        norm: NormName | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(hidden_size=hidden_size)
        check_dropout(dropout)
        if norm in ("instance", "local_response"):
            raise ValueError(
                f"norm is {norm!r}, which normalizes over an image's pixels or channels: an MLP "
                "has neither; choose batch, layer, group or weight"
            )
        self.hidden_size = hidden_size
        self.make_activation = activation
        self.norm: NormName | None = norm
        self.dropout = dropout
        self.adapt()

    def build(self) -> None:
        self.layers = hidden_layers(
            math.prod(self.input_shape),
            self.hidden_size,
            self.num_classes,
            self.make_activation,
            self.norm,
            self.dropout,
        )

    def gain_activation(self) -> nn.Module:
        return self.make_activation()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.preprocess(images))
