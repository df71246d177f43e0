"""The hidden layer and the last one, and the checks of a network's sizes."""

from torch import nn

from lightning_modules.layers.activation import Activation
from lightning_modules.layers.norm import NormName, norm_layer, normed_weight


def hidden_layers(
    features: int,
    hidden_size: int,
    num_classes: int,
    activation: Activation,
    norm: NormName | None,
    dropout: float,
    *,
    norm_first: bool = False,
) -> nn.Sequential:
    """From ``[N, …]`` with ``features`` values per image to logits ``[N, num_classes]``.

    Flatten, linear, activation, norm (these two the other way round with ``norm_first``), dropout,
    linear.
    """
    between = [activation(), norm_layer(norm, hidden_size, spatial=False)]
    return nn.Sequential(
        nn.Flatten(),
        normed_weight(nn.Linear(features, hidden_size), norm),
        *(reversed(between) if norm_first else between),
        nn.Dropout(dropout),
        nn.Linear(hidden_size, num_classes),
    )


def check_sizes(**sizes: int) -> None:
    """Refuse a size below 1.

    Raises:
        ValueError: names the argument and its value.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")


def check_dropout(dropout: float) -> None:
    """Refuse a probability outside [0, 1).

    Raises:
        ValueError: names the value.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected 0 <= value < 1")
