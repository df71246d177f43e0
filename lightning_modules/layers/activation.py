"""The type of an activation: a class or factory without arguments."""

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]
