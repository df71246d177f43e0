"""What an activation is."""

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]
