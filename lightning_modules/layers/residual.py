"""Convolutions with a shortcut."""

from torch import Tensor, nn

from lightning_modules.layers.activation import Activation
from lightning_modules.layers.norm import NormName, norm_layer, normed_weight


class Residual(nn.Module):
    """A convolution that keeps the shape, with a shortcut: x + activation(norm(conv(x))).

    He et al. 2016, arXiv:1512.03385, "deep residual learning".

    Args:
        channels: of ``[N, channels, H, W]``, in and out.
        kernel_size: side of the (odd, square) kernel, in pixels.
        activation: class of the activation.
        norm: see :func:`norm_layer`.
    """

    def __init__(
        self, channels: int, kernel_size: int, activation: Activation, norm: NormName | None
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.branch = nn.Sequential(
            normed_weight(conv, norm), norm_layer(norm, channels, spatial=True), activation()
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.branch(features)
