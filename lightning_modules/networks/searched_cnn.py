"""A convolutional network written as a line of text: what an architecture search trains."""

import difflib
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.layers.pooling import MaxPool

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}
POOLS: dict[str, Callable[[], nn.Module]] = {
    "pool": MaxPool,
    "avgpool": partial(nn.AvgPool2d, 2),
}

# How tokens look, a number as "#", and how a person writes them down.
_FORMS = {
    "conv#k#": "conv<channels>k<odd kernel>",
    "fc#": "fc<units>",
    "bn": "bn",
    **{name: name for name in ACTIVATIONS},
    **{name: name for name in POOLS},
    "drop#": "drop<percent>",
}


class Token(NamedTuple):
    """One word of an architecture.

    Attributes:
        form: the word with every number as ``#``, e.g. ``conv#k#``.
        numbers: those numbers, e.g. ``(32, 3)``.
        where: the word's place, for messages, e.g. ``token 1 of stage 2, 'conv32k3',``.
    """

    form: str
    numbers: tuple[int, ...]
    where: str


def parse(architecture: str) -> list[list[Token]]:
    """The tokens of every stage: well-formed, with numbers in range and in an order that works.

    Raises:
        ValueError: a word that is none, a number out of range, or a word in the wrong place.
    """
    stages = [
        [_token(word, f"token {i} of stage {stage}, {word!r},") for i, word in enumerate(words, 1)]
        for stage, words in enumerate((s.split("-") for s in architecture.split("|")), 1)
    ]
    hidden = False  # whether a hidden layer came already
    for first, *others in stages:
        if first.form not in ("conv#k#", "fc#"):
            raise ValueError(
                f"{first.where} cannot begin a stage: expected {_FORMS['conv#k#']} or "
                f"{_FORMS['fc#']}, and this after it"
            )
        if hidden and first.form == "conv#k#":
            raise ValueError(f"{first.where} comes after an fc stage: expected it before them all")
        hidden = first.form == "fc#"
        for token in others:
            if token.form in ("conv#k#", "fc#"):
                raise ValueError(
                    f"{token.where} begins a layer inside a stage: expected | before it"
                )
            if hidden and token.form in POOLS:
                raise ValueError(
                    f"{token.where} comes after an fc, which leaves no pixels to pool: expected "
                    "it in a conv stage"
                )
    return stages


def _token(word: str, where: str) -> Token:
    """Read one word.

    Raises:
        ValueError: no such word, or a number out of range.
    """
    form = re.sub("[0-9]+", "#", word)
    numbers = tuple(map(int, re.findall("[0-9]+", word)))
    if form not in _FORMS:
        close = difflib.get_close_matches(form.lower(), _FORMS, n=1)
        near = ""
        if close:
            fits = close[0].count("#") == len(numbers)
            near = close[0].replace("#", "{}").format(*numbers) if fits else _FORMS[close[0]]
            near = f"did you mean {near}? "
        raise ValueError(
            f"{where} is {'unknown' if word else 'empty'}: {near}expected one of "
            f"{', '.join(_FORMS.values())}"
        )
    match form, numbers:
        case "conv#k#", (0, _):
            raise ValueError(f"{where} has no channels: expected at least 1, e.g. conv32k3")
        case "conv#k#", (channels, kernel) if kernel % 2 == 0:
            raise ValueError(
                f"{where} has an even kernel: expected an odd one, e.g. conv{channels}k{kernel + 1}"
            )
        case "fc#", (0,):
            raise ValueError(f"{where} has no units: expected at least 1, e.g. fc128")
        case "drop#", (percent,) if not 0 < percent < 100:
            raise ValueError(f"{where} drops {percent} %: expected 0 < percent < 100, e.g. drop25")
    return Token(form, numbers, where)


class SearchedCNN(ImageClassifier):
    """The network that a string describes, so that a search can write networks.

    Words describe a network from the image to the logits, as the controller of Zoph and Le 2017
    (arXiv:1611.01578) emits them one after another. Stages are separated by ``|``, and the words of
    a stage by ``-``. A stage begins with its layer:

    - ``conv<channels>k<odd kernel>``: convolution that pads to keep the size,
      ``[N, C, H, W]`` → ``[N, channels, H, W]``;
    - ``fc<units>``: hidden layer, ``[N, features]`` → ``[N, units]``, after all convolutions.

    Any of these follow, in any order, as often as wanted:

    - ``bn``: batch normalization;
    - ``relu``, ``gelu``, ``silu``, ``tanh``, ``elu``: the activation. An fc stage that names none
      has a ReLU right after its layer, so a bare ``fc128`` is linear and ReLU; a conv stage that
      names none is linear;
    - ``pool``, ``avgpool``: largest value or mean of 2×2 pixels, → ``[N, C, H/2, W/2]``, in conv
      stages only;
    - ``drop<percent>``: dropout of single values.

    Behind the last stage comes a linear layer to ``num_classes`` logits.

    Args:
        architecture: the string; a stage at least.
        kwargs: see :class:`ImageClassifier`.

    Raises:
        ValueError: a string that is no architecture; names the string, the word, its place and what
            was expected.
    """

    def __init__(
        self,
        architecture: str = "conv32k3-bn-relu-pool|conv64k3-bn-relu-pool|fc128",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        try:
            self.stages = parse(architecture)
        except ValueError as error:
            raise ValueError(f"architecture {architecture!r}: {error}") from None
        self.architecture = architecture
        self.adapt()

    def build(self) -> None:
        try:
            self.features, self.head = self._layers(self.stages)
        except ValueError as error:
            raise ValueError(f"architecture {self.architecture!r}: {error}") from None
        layers = [*self.features, *self.head]
        activations = tuple(type(make()) for make in ACTIVATIONS.values())
        self._activation = next((type(x) for x in layers if isinstance(x, activations)), None)

    def _layers(self, stages: list[list[Token]]) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers on feature maps ``[N, C, H, W]``, and those on vectors, from flatten on.

        Raises:
            ValueError: pooling where a side has one pixel.
        """
        channels, height, width = self.input_shape
        features, head = nn.Sequential(), nn.Sequential(nn.Flatten())
        units = None  # of the hidden layer before; None: there are pixels
        for stage in stages:
            for token in stage:
                match token.form, token.numbers:
                    case "conv#k#", (size, kernel):
                        features.append(nn.Conv2d(channels, size, kernel, padding=kernel // 2))
                        channels = size
                    case "fc#", (size,):
                        head.append(nn.Linear(units or channels * height * width, size))
                        units = size
                        if not any(token.form in ACTIVATIONS for token in stage):
                            head.append(nn.ReLU())
                    case "bn", _ if units:
                        head.append(nn.BatchNorm1d(units))
                    case "bn", _:
                        features.append(nn.BatchNorm2d(channels))
                    case pool, _ if pool in POOLS:
                        if min(height, width) < 2:
                            raise ValueError(
                                f"{token.where} cannot halve {height}x{width} pixels: expected at "
                                "most as many poolings as the image can be halved"
                            )
                        features.append(POOLS[pool]())
                        height, width = height // 2, width // 2
                    case "drop#", (percent,):
                        (head if units else features).append(nn.Dropout(percent / 100))
                    case activation, _:
                        (head if units else features).append(ACTIVATIONS[activation]())
        head.append(nn.Linear(units or channels * height * width, self.num_classes))
        return features, head

    def gain_activation(self) -> nn.Module | None:
        """The first activation; None for a linear network."""
        return self._activation() if self._activation else None

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(self.preprocess(images)))
