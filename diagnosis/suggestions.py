"""Suggestions for a kind of run and its configuration."""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from foundation.checkout import ROOT
from foundation.run_folder import as_typed, program

_OVERLAYS = "configs/techniques"
# Where a search for the rate begins, by the optimizer: the rates of the overlays.
_USUAL_RATES = {"SGD": 0.02, "Adagrad": 0.01, "Adadelta": 1.0, "MuonWithAdamW": 0.02}
_USUAL_RATE = 0.001  # Adam and its kin
# Data whose left and right mean the same. Of data that is not here, nobody knows.
_MIRRORED = ("FashionMNISTDataModule",)
_SATURATING = ("Sigmoid", "Tanh", "Identity")
_AVERAGES = {"ExponentialMovingAverage", "StochasticWeightAveraging", "WeightAveraging"}


class Suggestion(NamedTuple):
    """Something to try.

    Attributes:
        why: what it does, in a few words.
        options: of ``train.py fit``, behind the run's own configuration; empty where it is none of
            its options.
    """

    why: str
    options: str

    def command(self, config: str) -> str:
        """The whole command line, ready to be typed here.

        Args:
            config: path of the run's configuration.
        """
        return f"{program('train.py')} fit --config {config} {self.typed}"

    @property
    def typed(self) -> str:
        """The options, with paths from the working directory."""
        folder = ROOT / _OVERLAYS
        return self.options.replace(_OVERLAYS, shlex.quote(as_typed(folder)))


def suggestions(
    kind: str, config: Mapping[str, Any], *, epochs: int, best_epoch: int, improving: bool
) -> list[Suggestion]:
    """List what to try next, the most promising first; nothing that is in force already.

    Args:
        kind: the diagnosis.
        config: the run's configuration; empty leaves out what depends on it.
        epochs: of the run.
        best_epoch: the one with the lowest validation loss, from 1.
        improving: whether the validation loss still fell at the end.
    """
    adviser = _Adviser(config, epochs, best_epoch, improving)
    getattr(adviser, kind.replace(" ", "_"))()
    return adviser.found


class _Adviser:
    """Collects suggestions; each method adds those that fit the configuration."""

    def __init__(
        self, config: Mapping[str, Any], epochs: int, best_epoch: int, improving: bool
    ) -> None:
        self.config = config
        self.epochs = epochs
        self.best_epoch = best_epoch
        self.improving = improving
        self.found: list[Suggestion] = []
        optimizer = _class_name(self.get("model.optimizer"))
        self.usual_rate = _USUAL_RATES.get(optimizer, _USUAL_RATE)
        self.rate_option, self.rate = self._rate()

    # Reading the configuration.

    def _owner(self, path: str) -> tuple[Mapping[str, Any], str]:
        """The mapping that holds the option, and the option's last name."""
        *parents, name = path.split(".")
        node = _arguments(self.config)
        for parent in parents:
            node = _arguments(node.get(parent))
        return node, name

    def get(self, path: str) -> Any:
        """``model.optimizer.lr``, with every ``init_args`` left out; None where there is none."""
        node, name = self._owner(path)
        return node.get(name)

    def number(self, path: str) -> float:
        """The same; 0 where there is no number."""
        value = self.get(path)
        return value if isinstance(value, int | float) else 0

    def unset(self, path: str) -> bool:
        """True for an option that exists here and is 0, empty or null."""
        node, name = self._owner(path)
        return name in node and not node[name]

    def classes(self, path: str) -> set[str]:
        """Names of the classes in a list."""
        return {_class_name(node) for node in self.get(path) or []}

    def _rate(self) -> tuple[str, float]:
        """The option that sets the learning rate, and its value; 0 where there is none."""
        names = ("model.lr_scheduler.max_lr", "model.optimizer.lr")
        return next(((n, self.number(n)) for n in names if self.number(n) > 0), ("", 0.0))

    # Adding suggestions.

    def option(self, why: str, name: str, value: Any) -> None:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        self.found.append(Suggestion(why, f"--{name} {text}"))

    def overlay(self, why: str, name: str) -> None:
        self.found.append(Suggestion(why, f"--config {_OVERLAYS}/{name}.yaml"))

    def scale_rate(self, why: str, factor: float) -> None:
        if self.rate:
            self.option(why, self.rate_option, self.rate * factor)

    def usual(self, why: str) -> None:
        self.option(f"{why}: the usual one of this optimizer", self.rate_option, self.usual_rate)

    @property
    def rate_is_low(self) -> bool:
        return 0 < self.rate < self.usual_rate / 3

    @property
    def rate_is_high(self) -> bool:
        return self.rate > self.usual_rate * 3

    def longer(self) -> None:
        if self.improving:
            why = "twice the epochs: it was still improving"
            self.option(why, "trainer.max_epochs", 2 * self.epochs)

    def augment(self) -> None:
        if self.number("data.missing_fraction") or self.number("data.outlier_fraction"):
            return  # damaged images take no augmentation
        there = self.classes("data.augmentation")
        mirrored = _class_name(self.config.get("data")) in _MIRRORED
        if mirrored and not there & {"HorizontalFlip", "RandomHorizontalFlip"}:
            self.overlay("augmentation: mirror images", "augmentation/flip")
        if "data" in self.config and not there & {"RandomAffine", "RandomCrop", "TrivialAugment"}:
            self.overlay("augmentation: shifted and turned images", "augmentation/affine")

    def schedule(self) -> None:
        if self.unset("model.lr_scheduler"):
            self.overlay("a schedule: the rate falls to 0", "schedules/cosine_lr")

    def average(self) -> None:
        if not self.classes("trainer.callbacks") & _AVERAGES:
            self.overlay("an average of the weights of many steps", "regularization/ema")

    def norm(self) -> None:
        if self.unset("model.norm"):
            self.overlay("normalized activations", "normalization/batch_norm")

    def larger(self) -> None:
        width, hidden = self.get("model.width"), self.get("model.hidden_size")
        if width == 32:
            self.overlay("wider", "architecture/wider")
        elif width is not None and width < 64:
            self.option("wider", "model.width", max(16, 2 * width))
        if hidden is not None and hidden < 512:
            self.option("more hidden units", "model.hidden_size", max(128, 2 * hidden))
        if 0 < self.number("model.depth") < 3:
            self.overlay("deeper", "architecture/deeper")

    def activation(self) -> None:
        if _class_name(self.get("model.activation")) in _SATURATING:
            self.option("an activation that does not saturate", "model.activation", "torch.nn.ReLU")

    def clip(self) -> None:
        if self.unset("trainer.gradient_clip_val"):
            self.overlay("clipping: no step is longer than 1", "optimizers/clip_norm")

    # By diagnosis.

    def overfitting(self) -> None:
        if 0 < self.number("data.train_fraction") < 1:
            self.option("more data: all training images", "data.train_fraction", 1)
        self.augment()
        if self.unset("model.dropout"):
            self.overlay("dropout", "regularization/dropout")
        if self.unset("model.optimizer.weight_decay"):
            self.overlay("weight decay", "regularization/weight_decay")
        if self.number("early_stopping.patience") > 3 and self.epochs - self.best_epoch > 3:
            self.overlay(
                "early stopping: after 3 epochs without gain", "regularization/early_stopping"
            )
        if self.best_epoch < self.epochs:
            why = "fewer epochs: the validation loss was lowest then"
            self.option(why, "trainer.max_epochs", self.best_epoch)
        self.scale_rate("a lower rate", 1 / 3)

    def underfitting(self) -> None:
        if self.rate_is_low:
            self.usual("a higher rate")
        for name, much in (("l1", 1e-4), ("l2", 1e-3)):
            if self.number(f"model.{name}") >= much:
                self.option("less regularization", f"model.{name}", 0)
        if self.number("model.dropout") >= 0.5:
            self.option("less regularization", "model.dropout", 0.1)
        self.longer()
        self.activation()
        self.larger()
        self.norm()
        for name in ("augmentation", "mixing"):
            if self.get(f"data.{name}"):
                self.option(f"no {name}", f"data.{name}", "null")
        if not self.rate_is_low:
            self.scale_rate("a higher rate", 3)

    def oscillating(self) -> None:
        if self.rate_is_high:
            self.usual("a lower rate")
        else:
            self.scale_rate("a lower rate", 1 / 5)
        if self.number("model.optimizer.momentum") > 0.9:
            self.option("less momentum", "model.optimizer.momentum", 0.9)
        self.schedule()
        batch = self.get("data.batch_size")
        if batch is not None and batch < 128:
            self.option("larger batches", "data.batch_size", min(128, 4 * batch))
        self.average()
        self.clip()
        if self.classes("data.augmentation") & {"RandomAffine", "RandomErasing", "TrivialAugment"}:
            self.option("milder augmentation: none", "data.augmentation", "null")

    def not_converging(self) -> None:
        if self.rate_is_high:
            self.usual("a lower rate")
        elif self.rate_is_low:
            self.usual("a higher rate")
        self.activation()
        if _class_name(self.get("model.initializer")) in ("Gaussian", "Uniform"):
            self.overlay("weights scaled to the layers' sizes", "initialization/init_he_normal")
        self.norm()
        if self.unset("model.preprocessing"):
            self.overlay("images scaled to −1…1", "preprocessing/min_max")
        self.clip()
        if not self.rate_is_high and not self.rate_is_low:
            self.scale_rate("a lower rate", 1 / 10)

    def good_fit(self) -> None:
        self.longer()
        self.schedule()
        self.augment()
        self.norm()
        self.larger()
        self.average()


def _class_name(node: Any) -> str:
    """``ReLU`` of ``{class_path: torch.nn.ReLU}`` and of ``torch.nn.ReLU``."""
    path = node.get("class_path") if isinstance(node, Mapping) else node
    return str(path or "").rsplit(".", 1)[-1]


def _arguments(node: Any) -> Mapping[str, Any]:
    """Of a class with ``init_args``, those; of a group, its options."""
    return {**node, **(node.get("init_args") or {})} if isinstance(node, Mapping) else {}
