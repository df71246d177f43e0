"""A space of convolutional networks, for architecture search."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import optuna

from lightning_modules.networks.searched_cnn import ACTIVATIONS, POOLS


@dataclass(frozen=True)
class Architecture:
    """Networks of a varying number of blocks, as strings for ``SearchedCNN``.

    A block is convolution, norm, activation, pooling, e.g. ``conv32k3-bn-relu-pool``; at the end
    there may be a hidden layer. A network is drawn word by word, so that a sampler can learn which
    word should follow which (Zoph and Le 2017, arXiv:1611.01578, section 3.4).

    Args:
        max_blocks: the most convolution blocks; there is at least one.
        channels: of a convolution.
        kernels: sides of a convolution's kernel, in pixels; odd.
        norms: ``bn``, ``none``.
        activations: ``relu``, ``gelu``, ``silu``, ``tanh``, ``elu``, ``none``.
        pools: ``pool``, ``avgpool``, ``none``.
        units: of the hidden layer; 0 for none.
        side: the images' shorter side, in pixels: how often they can be halved. A study takes its
            data's.

    Raises:
        ValueError: names the field whose value cannot be used.
    """

    max_blocks: int = 3
    channels: tuple[int, ...] = (16, 32, 64)
    kernels: tuple[int, ...] = (3, 5)
    norms: tuple[str, ...] = ("bn", "none")
    activations: tuple[str, ...] = ("relu", "gelu")
    pools: tuple[str, ...] = ("pool", "none")
    units: tuple[int, ...] = (0, 64, 128, 256)
    side: int | None = None

    def __post_init__(self) -> None:
        if type(self.max_blocks) is not int or self.max_blocks < 1:
            raise ValueError(f"max_blocks is {self.max_blocks!r}; expected an integer, at least 1")
        if self.side is not None and (type(self.side) is not int or self.side < 1):
            raise ValueError(f"side is {self.side!r}; expected an integer, at least 1")
        self._freeze("channels", least=1)
        self._freeze("kernels", least=1)
        self._freeze("units", least=0)
        even = [kernel for kernel in self.kernels if kernel % 2 == 0]
        if even:
            raise ValueError(f"kernels has {even[0]}; expected odd numbers")
        self._freeze("norms", known=("bn", "none"))
        self._freeze("activations", known=(*ACTIVATIONS, "none"))
        self._freeze("pools", known=(*POOLS, "none"))

    def _freeze(self, name: str, least: int = 0, known: Collection[str] | None = None) -> None:
        """Check a field's choices, and turn YAML's list into a tuple.

        Raises:
            ValueError: no list, none or the same choice twice, or a choice that is none.
        """
        choices: Any = getattr(self, name)
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"{name} is {choices!r}; expected a list of at least one choice")
        for choice in choices:
            if known is not None and choice not in known:
                raise ValueError(f"{name} has {choice!r}; expected some of {', '.join(known)}")
            if known is None and (type(choice) is not int or choice < least):
                raise ValueError(f"{name} has {choice!r}; expected integers, at least {least}")
        if len(set(choices)) < len(choices):
            raise ValueError(f"{name} is {choices!r}; expected every choice once")
        object.__setattr__(self, name, tuple(choices))

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> str:
        """Draw a network word by word.

        A parameter has the same choices in every trial, as Optuna requires; which parameters a
        trial has depends on the words before: ``<name>.<block>.next`` says whether another block
        comes and is not asked in the last possible one, and ``<name>.<block>.pool`` is not asked
        where one pixel is left.

        Args:
            trial: where the words come from; a ``FixedTrial`` of a trial's params repeats it.
            name: what the parameters' names begin with.
        """
        convolutions = [f"conv{c}k{k}" for c in self.channels for k in self.kernels]
        stages = []
        side = math.inf if self.side is None else self.side
        for block in range(self.max_blocks):
            prefix = f"{name}.{block}"
            words = [
                trial.suggest_categorical(f"{prefix}.conv", convolutions),
                trial.suggest_categorical(f"{prefix}.norm", self.norms),
                trial.suggest_categorical(f"{prefix}.activation", self.activations),
            ]
            if side >= 2:
                words.append(trial.suggest_categorical(f"{prefix}.pool", self.pools))
                side = side / 2 if words[-1] != "none" else side
            stages.append("-".join(word for word in words if word != "none"))
            last = block == self.max_blocks - 1
            if last or trial.suggest_categorical(f"{prefix}.next", ("block", "end")) == "end":
                break
        units = trial.suggest_categorical(f"{name}.fc", self.units)
        return "|".join([*stages, f"fc{units}"] if units else stages)
