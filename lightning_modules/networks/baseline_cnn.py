"""The textbook's plain CNN, and what may be added to it."""

from typing import Any, Literal

from torch import Tensor, nn

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.layers.activation import Activation
from lightning_modules.layers.attention import CrissCrossAttention, SqueezeExcitation
from lightning_modules.layers.hidden import check_dropout, check_sizes, hidden_layers
from lightning_modules.layers.norm import NormName, norm_layer, normed_weight
from lightning_modules.layers.pooling import MaxPool
from lightning_modules.layers.residual import Residual


class BaselineCNN(ImageClassifier):
    """Convolution blocks, then one hidden layer: by default the tutorial's plain network.

    For FashionMNIST the default is conv 1→32 3×3, ReLU, max-pool 2, conv 32→64 3×3, ReLU,
    max-pool 2, linear 3136→128, ReLU, linear 128→10; convolutions pad to keep the size.

    Args:
        width: channels of the first block; every further block has twice as many.
        depth: number of blocks; each halves height and width.
        kernel_size: side of the (odd, square) convolution kernels, in pixels.
        hidden_size: units of the hidden layer.
        activation: class of the activation, e.g. ``torch.nn.GELU``.
        norm: normalization after every activation, or None for none. See
            :func:`lightning_modules.layers.norm.norm_layer`.
        norm_hidden: whether the hidden layer is normalized too; the tutorial's is not.
        hidden_order: what follows the hidden layer, in which order.
        dropout: probability of dropping a hidden unit before the last layer, in [0, 1).
        order: what follows a convolution, in which order. Pooling first is the cheapest: what
            follows then has a quarter of the pixels.
        residual: how many convolutions with a shortcut follow in every block. See
            :class:`lightning_modules.layers.residual.Residual`.
        attention: at the end of every block, or None for none. See
            :class:`lightning_modules.layers.attention.SqueezeExcitation` and
            :class:`lightning_modules.layers.attention.CrissCrossAttention`.
        kwargs: see :class:`ImageClassifier`.

    Raises:
        ValueError: a size below 1, an even kernel, a dropout outside [0, 1), an order that does not
            name its three parts, or more blocks than the image can be halved.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 2,
        kernel_size: int = 3,
        hidden_size: int = 128,
        activation: Activation = nn.ReLU,
        norm: NormName | None = None,
        norm_hidden: bool = False,
        hidden_order: Literal["activation-norm", "norm-activation"] = "activation-norm",
        dropout: float = 0.0,
        order: Literal[
            "activation-norm-pool",
            "activation-pool-norm",
            "norm-activation-pool",
            "norm-pool-activation",
            "pool-activation-norm",
            "pool-norm-activation",
        ] = "activation-norm-pool",
        residual: int = 0,
        attention: Literal["squeeze_excitation", "criss_cross"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(width=width, depth=depth, hidden_size=hidden_size)
        check_dropout(dropout)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; expected an odd number, at least 1")
        if residual < 0:
            raise ValueError(f"residual is {residual}; expected at least 0")
        if sorted(order.split("-")) != ["activation", "norm", "pool"]:
            raise ValueError(
                f"order is {order!r}; expected activation, norm and pool, each once, e.g. "
                "'pool-norm-activation'"
            )
        if hidden_order not in ("activation-norm", "norm-activation"):
            raise ValueError(
                f"hidden_order is {hidden_order!r}; expected activation-norm or norm-activation"
            )
        self.width = width
        self.depth = depth
        self.kernel_size = kernel_size
        self.hidden_size = hidden_size
        self.make_activation = activation
        self.norm: NormName | None = norm
        self.norm_hidden = norm_hidden
        self.hidden_order = hidden_order
        self.dropout = dropout
        self.order = order
        self.residual = residual
        self.attention = attention
        self.adapt()

    def build(self) -> None:
        in_channels, height, wide = self.input_shape
        depth = self.depth
        if min(height, wide) >> depth < 1:
            raise ValueError(
                f"depth is {depth}, but {height}x{wide} pixels can be halved only "
                f"{min(height, wide).bit_length() - 1} times"
            )
        normed_last = self.residual > 0 or self.order.index("pool") < self.order.index("norm")
        if self.norm == "instance" and normed_last and (height >> depth) * (wide >> depth) == 1:
            raise ValueError(
                f"norm is 'instance', but after {depth} poolings there is one pixel, which leaves "
                "nothing to normalize; choose a smaller depth or another norm or order"
            )
        channels = [in_channels, *(self.width * 2**i for i in range(depth))]
        self.features = nn.Sequential(*map(self._block, channels[:-1], channels[1:]))
        self.head = hidden_layers(
            channels[-1] * (height >> depth) * (wide >> depth),
            self.hidden_size,
            self.num_classes,
            self.make_activation,
            self.norm if self.norm_hidden else None,
            self.dropout,
            norm_first=self.hidden_order == "norm-activation",
        )

    def _block(self, channels_in: int, channels_out: int) -> nn.Sequential:
        size, norm = self.kernel_size, self.norm
        conv = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
        parts: dict[str, nn.Module] = {
            "activation": self.make_activation(),
            "norm": norm_layer(norm, channels_out, spatial=True),
            "pool": MaxPool(),
        }
        layers = [normed_weight(conv, norm), *(parts[part] for part in self.order.split("-"))]
        for _ in range(self.residual):
            layers.append(Residual(channels_out, size, self.make_activation, norm))
        if self.attention == "squeeze_excitation":
            layers.append(SqueezeExcitation(channels_out))
        elif self.attention == "criss_cross":
            layers.append(CrissCrossAttention(channels_out))
        return nn.Sequential(*layers)

    def gain_activation(self) -> nn.Module:
        return self.make_activation()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.preprocess(images)))
