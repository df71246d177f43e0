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

    The default is conv 1→32 3×3, ReLU, max-pool 2, conv 32→64 3×3, ReLU, max-pool 2,
    linear 3136→128, ReLU, linear 128→10; convolutions pad to keep the size.

    Args:
        width: channels of the first block; every further block has twice as many.
        depth: number of blocks; each halves height and width.
        kernel_size: side of the (odd, square) convolution kernels, in pixels.
        hidden_size: units of the hidden layer.
        activation: class of the activation, e.g. ``torch.nn.GELU``.
        norm: normalization after every activation, or None for none. See
            :func:`lightning_modules.layers.hidden.norm_layer`.
        norm_hidden: whether the hidden layer is normalized too.
        hidden_order: what follows the hidden layer, in which order.
        dropout: probability of dropping a hidden unit before the last layer, in [0, 1).
        order: what follows a convolution, in which order. Pooling first is the cheapest: what
            follows then has a quarter of the pixels.
        residual: how many convolutions with a shortcut follow in every block. See
            :class:`lightning_modules.layers.hidden.Residual`.
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
        norm_hidden: bool = True,
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
        in_channels, height, wide = self.input_shape
        if min(height, wide) >> depth < 1:
            raise ValueError(
                f"depth is {depth}, but {height}x{wide} pixels can be halved only "
                f"{min(height, wide).bit_length() - 1} times"
            )
        normed_last = residual > 0 or order.index("pool") < order.index("norm")
        if norm == "instance" and normed_last and (height >> depth) * (wide >> depth) == 1:
            raise ValueError(
                f"norm is 'instance', but after {depth} poolings there is one pixel, which leaves "
                "nothing to normalize; choose a smaller depth or another norm or order"
            )
        self.make_activation = activation

        def block(channels_in: int, channels_out: int) -> nn.Sequential:
            conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2)
            parts: dict[str, nn.Module] = {
                "activation": activation(),
                "norm": norm_layer(norm, channels_out, spatial=True),
                "pool": MaxPool(),
            }
            layers = [normed_weight(conv, norm), *(parts[part] for part in order.split("-"))]
            for _ in range(residual):
                layers.append(Residual(channels_out, kernel_size, activation, norm))
            if attention == "squeeze_excitation":
                layers.append(SqueezeExcitation(channels_out))
            elif attention == "criss_cross":
                layers.append(CrissCrossAttention(channels_out))
            return nn.Sequential(*layers)

        channels = [in_channels, *(width * 2**i for i in range(depth))]
        self.features = nn.Sequential(*map(block, channels[:-1], channels[1:]))
        self.head = hidden_layers(
            channels[-1] * (height >> depth) * (wide >> depth),
            hidden_size,
            self.num_classes,
            activation,
            norm if norm_hidden else None,
            dropout,
            norm_first=hidden_order == "norm-activation",
        )

    def gain_activation(self) -> nn.Module:
        return self.make_activation()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.preprocess(images)))
