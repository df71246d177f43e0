"""A small network of attention, for MNIST."""

from typing import Any

from torch import Tensor, nn

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.layers.activation import Activation
from lightning_modules.layers.attention import CrissCrossAttention, SqueezeExcitation
from lightning_modules.layers.hidden import check_dropout, check_sizes, hidden_layers
from lightning_modules.layers.norm import NormName, norm_layer, normed_weight


class AttentionNet(ImageClassifier):
    """Squeeze-and-excitation, criss-cross attention over 64 channels, one hidden layer.

    Squeeze-and-excitation on the image, 1×1 conv 1→64, criss-cross attention, 1×1 conv 64→1,
    linear 784→128, ReLU, linear 128→10 for MNIST.

    Args:
        width: channels in which positions attend to each other.
        reduction: see :class:`SqueezeExcitation`.
        hidden_size: units of the hidden layer.
        activation: class of the hidden layer's activation, e.g. ``torch.nn.GELU``.
        norm: normalization of the attended channels' input and after the hidden activation. See
            :func:`lightning_modules.layers.norm.norm_layer`.
        dropout: probability of dropping a hidden unit, in [0, 1).
        kwargs: see :class:`ImageClassifier`.

    Raises:
        ValueError: a size below 1, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        width: int = 64,
        reduction: int = 8,
        hidden_size: int = 128,
        activation: Activation = nn.ReLU,
        norm: NormName | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(width=width, reduction=reduction, hidden_size=hidden_size)
        check_dropout(dropout)
        self.width = width
        self.reduction = reduction
        self.hidden_size = hidden_size
        self.make_activation = activation
        self.norm: NormName | None = norm
        self.dropout = dropout
        self.adapt()

    def build(self) -> None:
        channels, height, wide = self.input_shape
        self.features = nn.Sequential(
            SqueezeExcitation(channels, self.reduction),
            normed_weight(nn.Conv2d(channels, self.width, 1), self.norm),
            norm_layer(self.norm, self.width, spatial=True),
            CrissCrossAttention(self.width),
            nn.Conv2d(self.width, 1, 1),
        )
        self.head = hidden_layers(
            height * wide,
            self.hidden_size,
            self.num_classes,
            self.make_activation,
            self.norm,
            self.dropout,
        )

    def gain_activation(self) -> nn.Module:
        return self.make_activation()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.preprocess(images)))
