"""Draw the figures of these pages from the overlays, the classes and the images themselves.

    python docs/draw_figures.py                           # all of them, into docs/figures/
    python docs/draw_figures.py schedules normalization   # some of them

Nothing is drawn from a formula of this file's own: a schedule is built from its YAML and stepped,
an augmentation is applied to images, an initializer fills real layers, which values a normalization
shares is read off its gradients, and the diagnosed runs are those of results/diagnosis. Takes half
a minute on one CPU core, most of it the fit of ZCA whitening to 55,000 images.
"""
# ruff: noqa: E402  (the repository's root must be on the path before its modules are imported)

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import io
import json
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import ActionConfigFile, Namespace
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from datamodules import FashionMNISTDataModule, ImageDataModule
from foundation.checkout import technique
from foundation.parser import Parser
from lightning_modules import ImageClassifier, Initializer, Standardize
from lightning_modules.initializers import activation_gain
from lightning_modules.layers.norm import NormName, norm_layer, normed_weight
from lightning_modules.schedules import build_scheduler
from studies.report.canvas import BLUE, GRAY, INK, RED

OVERLAYS = ROOT / "configs" / "techniques"
FIGURES = ROOT / "docs" / "figures"
DATA = ROOT / "data"

GREEN, PURPLE, PALE, SHARED = "#3a8f4d", "#7d55a8", "#d9e6f4", "#7fb0e3"


# What the overlays say.


def overlays(*keys: str) -> list[str]:
    """Names of the overlays that set an argument in ``keys``, e.g. ``augmentation+``; by key."""
    files = sorted(OVERLAYS.glob("*/*.yaml"))
    return [file.stem for key in keys for file in files if f"\n    {key}:" in file.read_text()]


def configured(*names: str, options: tuple[str, ...] = ()) -> Namespace:
    """``model`` (a BaselineCNN) and ``data`` (FashionMNIST) with overlays put on, as train.py does.

    Args:
        names: of overlays that change the model or the data, from left to right.
        options: further command-line options, e.g. ``--data.val_size=1000``.
    """
    parser = Parser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--tune", type=dict)  # of overlays, for compare.py
    parser.add_lightning_class_args(ImageClassifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    base = ["--model=BaselineCNN", "--model.preprocessing=MinMaxScaling"]
    base += ["--model.num_classes=10", "--model.image_shape=[1,28,28]"]
    files = [f"--config={technique(name)}" for name in names]
    parsed = parser.parse_args([*base, "--data=FashionMNISTDataModule", *files, *options])
    return parser.instantiate(parsed)


def one_per_class(data: ImageDataModule) -> Tensor:
    """The first validation image of every class, as the loader gives them."""
    assert data.val_set is not None
    labels = data.val_set.labels
    first = [int((labels == label).nonzero()[0]) for label in range(data.num_classes)]
    return data.val_set.images[first]


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window and needs no closing."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plain(axes: Axes) -> None:
    """No frame on the top and right, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def show(axes: Axes, image: Tensor, **style: Any) -> None:
    """Show one image ``[1, H, W]``, gray in 0…1 unless ``style`` says otherwise."""
    axes.imshow(
        image[0].numpy(),
        **{"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", **style},
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def name_row(axes: Axes, name: str, note: str = "") -> None:
    """Write a row's name, and under it what is worth knowing, to the left of its first image."""
    at: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "textcoords": "offset points"}
    up = 2 if note else -4
    axes.annotate(name, (0, 0.5), (-8, up), fontsize=10, color=INK, weight="bold", **at)
    axes.annotate(note, (0, 0.5), (-8, -2), fontsize=8, color=GRAY, va="top", **at)


# Schedules.

EPOCHS, STEPS = 20, 50


def plateau_loss(epoch: int) -> float:
    """A validation loss, made up, that falls for 5 epochs and then stays where it is."""
    return max(0.35, 0.9 - 0.11 * epoch)


def learning_rates(overlay: str) -> list[float]:
    """The rate at every step of a run of 20 epochs of 50 steps, as a share of the optimizer's."""
    model = configured(overlay).model
    optimizer = model.make_optimizer(model.parameters())
    by_step = model.lr_scheduler_interval == "step"
    full = optimizer.param_groups[0]["lr"]
    length = EPOCHS * STEPS if by_step else EPOCHS
    scheduler = build_scheduler(model.make_lr_scheduler, optimizer, lambda: length)
    rates = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"] / full)
            optimizer.step()
            if by_step:
                scheduler.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(plateau_loss(epoch))
        elif not by_step:
            scheduler.step()
    return rates


def schedules(root: Path = DATA) -> Figure:
    """One panel per schedule overlay."""
    names = overlays("lr_scheduler")
    rows = -(-len(names) // 3)
    figure = new_figure(9, 2.1 * rows + 0.3)
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    time = np.arange(EPOCHS * STEPS) / STEPS
    for axes, name in zip(panels.flat, names, strict=False):
        rates = learning_rates(name)
        axes.fill_between(time, rates, color=PALE, linewidth=0)
        axes.plot(time, rates, color=BLUE, linewidth=1.8)
        axes.set_title(name, fontsize=10, loc="left", color=INK, weight="bold")
        plain(axes)
        if name == "reduce_on_plateau":
            losses = [plateau_loss(epoch) for epoch in range(EPOCHS)]
            axes.plot(np.arange(EPOCHS) + 1, losses, ":", color=RED, linewidth=1.5)
            axes.text(6, 0.27, "validation loss (made up)", color=RED, fontsize=8)
    panels[0, 0].set(xlim=(0, EPOCHS), ylim=(0, 1.05), xticks=range(0, EPOCHS + 1, 5))
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("learning rate / the optimizer's rate", fontsize=9)
    return figure


# Initialization.

LAYERS = 10
# 784 pixels narrow to 64 units: where the two sides of a layer differ, so do He and Xavier.
WIDTHS = [round(784 * (64 / 784) ** (i / LAYERS)) for i in range(LAYERS + 1)]
# By the word after "init_", in the legend's order.
_COLOURS = {
    "he": GREEN,
    "xavier": BLUE,
    "gaussian": RED,
    "uniform": RED,
    "orthogonal": PURPLE,
    "torch": GRAY,
}


def family(name: str) -> str:
    """``he`` for ``init_he_normal``."""
    return name.split("_")[1]


def signal(
    images: Tensor, labels: Tensor, initializer: Initializer | None, activation: nn.Module
) -> tuple[list[float], list[float]]:
    """Standard deviation of ten linear layers' outputs, and of the loss's gradients in them.

    Args:
        images: float ``[N, 784]``.
        labels: int64 ``[N]``.
        initializer: fills the weights; None keeps PyTorch's default.
        activation: follows every layer but the one that gives the logits.
    """
    torch.manual_seed(0)
    sizes = [*WIDTHS, 10]
    layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
    if initializer is not None:
        initializer(layers, activation)
    outputs = []
    x = images
    for layer in layers[:-1]:
        x = layer(x)
        x.retain_grad()
        outputs.append(x)
        x = activation(x)
    F.cross_entropy(layers[-1](x), labels, reduction="sum").backward()
    gradients = [x.grad for x in outputs if x.grad is not None]
    return [float(x.detach().std()) for x in outputs], [float(g.std()) for g in gradients]


def initialization(root: Path = DATA, count: int = 1000) -> Figure:
    """Signal and gradient through ten layers, for every initializer, with ReLU and with tanh."""
    data = prepared(FashionMNISTDataModule(root=str(root)))
    assert data.train_set is not None
    standardize = Standardize()
    standardize.fit(data.train_set.images)
    images = standardize(data.train_set.images[:count].float() / 255).flatten(1)
    labels = data.train_set.labels[:count]
    named: dict[str, Initializer | None] = {
        name: configured(name).model.initializer for name in overlays("initializer")
    }
    named["init_torch"] = None
    order = sorted(named, key=lambda name: (list(_COLOURS).index(family(name)), name))
    figure = new_figure(9, 6.4)
    panels = figure.subplots(2, 2, sharex=True, sharey="row", squeeze=False)
    for column, activation in enumerate((nn.ReLU(), nn.Tanh())):
        for name in order:
            for axes, values in zip(
                panels[:, column], signal(images, labels, named[name], activation), strict=True
            ):
                axes.plot(range(1, LAYERS + 1), values, **line_style(name))
        gain = activation_gain(activation)
        panels[0, column].set_title(
            f"{type(activation).__name__} (gain {gain:.2f})", fontsize=11, color=INK, weight="bold"
        )
        panels[1, column].set_xlabel("layer", fontsize=9)
    for axes in panels.flat:
        axes.set_yscale("log")
        axes.set_xticks(range(1, LAYERS + 1))
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        plain(axes)
    panels[0, 0].set_ylabel("forwards: std of the outputs", fontsize=9)
    panels[1, 0].set_ylabel("backwards: std of the gradients", fontsize=9)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
        handlelength=3.5,
    )
    return figure


def line_style(name: str) -> dict[str, Any]:
    """A color per family of initializers; the uniform one of a family dashed, with squares."""
    color = _COLOURS[family(name)]
    style = {"color": color, "linewidth": 1.4, "label": name}
    if "uniform" in name:
        return {**style, "linestyle": "--", "marker": "s", "mfc": "none", "markersize": 6}
    if name == "init_torch":
        return {**style, "marker": "d", "label": "none: torch's own"}
    return {**style, "marker": "o", "markersize": 3.5}


def prepared(data: ImageDataModule) -> ImageDataModule:
    """Fetch and load the training and validation images."""
    data.prepare_data()
    data.setup("fit")
    return data


# Augmentation.

DRAWS = 8
ANKLE_BOOT = 9


def augmentation(root: Path = DATA) -> Figure:
    """One row per augmentation overlay: an image, and eight draws of what training sees."""
    names = overlays("augmentation+", "mixing+")
    data = prepared(FashionMNISTDataModule(root=str(root)))
    assert data.val_set is not None
    boot = one_per_class(data)[ANKLE_BOOT].float() / 255
    figure = new_figure(9.5, 1.02 * len(names) + 0.45)
    panels = figure.subplots(len(names), DRAWS + 1, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        torch.manual_seed(1)
        images, captions = draws(configured(name).data, boot, data)
        show(row[0], boot)
        name_row(row[0], name)
        for axes, image, caption in zip(row[1:], images, captions, strict=True):
            show(axes, image)
            axes.set_xlabel(caption, fontsize=8, color=INK, labelpad=2)
    panels[0, 0].set_title("original", fontsize=10, color=INK)
    panels[0, 1].set_title("eight draws", fontsize=10, color=INK, loc="left")
    return figure


def draws(
    overlaid: ImageDataModule, image: Tensor, data: ImageDataModule
) -> tuple[Tensor, list[str]]:
    """Eight draws for ``image``, and under each what became of its label, where it changed.

    Args:
        overlaid: has the augmentation and the mixing.
        image: float ``[1, H, W]`` in 0…1, of class 9.
        data: its validation images are the rest of the batch, with which the image is mixed.
    """
    copies = image.expand(DRAWS, -1, -1, -1).clone()
    if overlaid.augmentation is not None:
        copies = overlaid.augmentation(copies)
    if not overlaid.mixing:
        return copies, [""] * DRAWS
    assert data.val_set is not None
    batch = torch.cat([copies, data.val_set.images[:256].float() / 255])
    labels = torch.cat([torch.full((DRAWS,), ANKLE_BOOT), data.val_set.labels[:256]])
    mixed, targets = overlaid.mixing[0](batch, labels, data.num_classes)
    return mixed[:DRAWS], [mixture(target, data.class_names) for target in targets[:DRAWS]]


def mixture(target: Tensor, class_names: tuple[str, ...]) -> str:
    """``74% boot\\n26% bag``: the shares of the target's two classes, ``[K]``."""
    share, index = target.topk(2)
    words = [class_names[int(i)].split("/")[0].split()[-1].lower() for i in index]
    parts = [f"{s:.0%} {word}" for s, word in zip(share, words, strict=True) if s >= 0.005]
    return "\n".join(parts)


# Preprocessing.


# What each kind of cleaning is for.
DAMAGE = {"clip_outliers": "outlier_fraction=0.01", "impute_missing": "missing_fraction=0.3"}


def preprocessing(root: Path = DATA, train_fraction: float = 1.0) -> Figure:
    """The same eight images as the network sees them, one row per preprocessing overlay.

    Args:
        root: folder of the data sets.
        train_fraction: share of the training split that the statistics are fitted on.
    """
    share = (f"--data.root={root}", f"--data.train_fraction={train_fraction}")
    rows = [seen(name, (name,), share) for name in overlays("preprocessing")]
    for name in overlays("cleaning+"):
        options = (*share, f"--data.{DAMAGE[name]}")
        rows.append(seen("damaged", (), options, DAMAGE[name].replace("=", " ")))
        rows.append(seen(name, (name,), options))
    raw = one_per_class(prepared(configured(options=share).data))[:8].float() / 255
    figure = new_figure(9.5, 0.94 * (len(rows) + 1))
    panels = figure.subplots(len(rows) + 1, 8, squeeze=False)
    name_row(panels[0, 0], "the images", "0 … 1")
    for axes, image in zip(panels[0], raw, strict=True):
        show(axes, image)
    for line, (name, note, images) in zip(panels[1:], rows, strict=True):
        name_row(line[0], name, note)
        for axes, image in zip(line, images, strict=True):
            show(axes, image, cmap="RdBu_r", vmin=-2, vmax=2)
    bar = figure.colorbar(
        panels[1, 0].images[0], ax=panels[1:], shrink=0.4, aspect=30, extend="both"
    )
    bar.set_label("what the first layer gets", fontsize=9)
    return figure


def seen(
    title: str, names: tuple[str, ...], options: tuple[str, ...], note: str = ""
) -> tuple[str, str, Tensor]:
    """A title, a note with the range, and eight images after the overlays' preprocessing."""
    both = configured(*names, options=options)
    data = prepared(both.data)
    fit_preprocessing(both.model, data)
    with torch.no_grad():
        images = both.model.preprocess(one_per_class(data)[:8])
    span = f"{images.min():.1f} … {images.max():.1f}, mean {images.mean():z.1f}"
    return title, f"{note}\n{span}".strip().replace("-", "−"), images


def fit_preprocessing(model: ImageClassifier, data: ImageDataModule) -> None:
    """Do what ``trainer.fit`` does before its first step."""
    alone = SimpleNamespace(broadcast=lambda seed: seed)
    model.trainer = SimpleNamespace(datamodule=data, strategy=alone)  # type: ignore[assignment]
    model.setup("fit")


# Normalization.

_SHARES = {
    "batch": "each channel,\nover the batch",
    "layer": "each image,\nover everything",
    "group": "each image,\n8 channels together",
    "instance": "each image and channel,\nover its pixels",
    "local_response": "each position,\n5 channels",
    "weight": "no activations: the weights\nof each output channel",
}
# Images, channels, pixels, and of which value the picture is: the first image's, in channel 12.
N, C, SIDE, CHANNEL = 4, 16, 2, 12


def shared(name: NormName) -> Tensor:
    """Mark the values that have a say in one normalized value: bool ``[N, C, H·W]``.

    For ``weight``, which values of a convolution's weight in one of its normed weights:
    bool ``[in, out, k·k]``.
    """
    torch.manual_seed(0)
    if name == "weight":
        layer: Any = normed_weight(nn.Conv2d(N, C, SIDE), name)
        layer.weight[CHANNEL, 0, 0, 0].backward()
        return layer.parametrizations.weight.original1.grad.flatten(2).transpose(0, 1) != 0
    values = torch.randn(N, C, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    norm_layer(name, C, spatial=True).double()(values)[0, CHANNEL, 0, 0].backward()
    assert values.grad is not None
    return values.grad.flatten(2) != 0


def normalization(root: Path = DATA) -> Figure:
    """A block of activations per norm; colored is what is normalized together."""
    figure = Figure(figsize=(9.5, 6.3), dpi=110)
    for i, name in enumerate(get_args(NormName)):
        column, row = i % 3, i // 3
        axes = figure.add_axes(
            (column / 3 - 0.03, 0.41 - 0.46 * row, 0.393, 0.56), projection="3d", proj_type="ortho"
        )
        draw_block(
            axes, shared(name), ("out", "in", "k·k") if name == "weight" else ("C", "N", "H·W")
        )
        middle, top = (column + 0.5) / 3, 0.97 - 0.46 * row
        figure.text(middle, top, name, fontsize=12, color=INK, weight="bold", ha="center", va="top")
        figure.text(
            middle, top - 0.045, _SHARES[name], fontsize=9, color=GRAY, ha="center", va="top"
        )
    for left, color, text in (
        (0.27, RED, "one value"),
        (0.42, SHARED, "the values that normalize it"),
    ):
        figure.text(left, 0.025, "■", color=color, fontsize=14, va="center")
        figure.text(left + 0.025, 0.025, text, color=INK, fontsize=10, va="center")
    return figure


def draw_block(axes: Any, values: Tensor, names: tuple[str, str, str]) -> None:
    """A block of cubes, channels to the right, images to the back, pixels from top to bottom.

    Args:
        axes: three-dimensional.
        values: those to color, bool ``[N, C, H·W]``.
        names: of the three directions: right, back, down.
    """
    colored = values.permute(1, 0, 2).flip(2).numpy()
    colors = np.where(colored, SHARED, "#f6f6f6")
    colors[CHANNEL, 0, -1] = RED
    axes.voxels(
        np.ones_like(colored), facecolors=colors, edgecolor="#a8a8a8", linewidth=0.5, shade=False
    )
    wide, deep, high = colored.shape
    axes.set(xlim=(0, wide), ylim=(0, deep), zlim=(0, high))
    axes.set_box_aspect((wide, 2 * deep, 1.8 * high), zoom=0.74)
    axes.view_init(elev=24, azim=-62)
    axes.patch.set_visible(False)
    axes.set_axis_off()
    style = {"fontsize": 10, "color": INK, "ha": "center", "va": "center"}
    axes.text(wide / 2, 0, -0.9, names[0], **style)
    axes.text(wide + 1.4, deep / 2, -0.4, names[1], **style)
    axes.text(-1.6, 0, high / 2, names[2], **style)


# Diagnosis.

DIAGNOSED = ROOT / "results" / "diagnosis" / "diagnosis.json"
# One run of the benchmark's collection for each kind.
EXAMPLES = {
    "overfitting": "MLP 128, 600 images",
    "underfitting": "MLP of 4 units",
    "oscillating": "MLP, SGD 0.3",
    "not converging": "all labels shuffled, MLP",
    "good fit": "short recipe",
}


def diagnosis(root: Path = DATA) -> Figure:
    """Curves of one provoked run of each kind, from the collection: FashionMNIST, seed 2."""
    runs = {
        run["name"]: run
        for run in json.loads(DIAGNOSED.read_text())["runs"]
        if (run["dataset"], run["seed"]) == ("FashionMNIST", 2)
    }
    figure = new_figure(10, 5)
    panels = figure.subplots(2, len(EXAMPLES), sharex="col", squeeze=False)
    for (top, bottom), (kind, name) in zip(panels.T, EXAMPLES.items(), strict=True):
        run = runs[name]
        curves = run["curves"]
        epochs = range(1, len(curves["val/loss"]) + 1)
        top.axhline(run["reference"], color=GREEN, linestyle=":", linewidth=1.2)
        for axes, metric in ((top, "accuracy"), (bottom, "loss")):
            axes.plot(epochs, curves[f"train/{metric}"], "--", color=GRAY, linewidth=1.4)
            axes.plot(epochs, curves[f"val/{metric}"], color=BLUE, linewidth=1.8)
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            plain(axes)
        top.set_title(kind, fontsize=11, loc="left", color=INK, weight="bold", pad=18)
        top.text(0, 1.03, name, fontsize=8, color=GRAY, transform=top.transAxes)
        top.set_ylim(0, 1.02)
        bottom.set_ylim(0, 1.1 * max(*curves["val/loss"], *curves["train/loss"]))
        bottom.set_xlabel("epoch", fontsize=9)
        bottom.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    panels[0, 0].set_ylabel("accuracy", fontsize=9)
    panels[1, 0].set_ylabel("loss", fontsize=9)
    lines = [*panels[0, 0].lines[1:], panels[0, 0].lines[0]]
    figure.legend(
        lines,
        ["training", "validation", "nearest class mean, not trained"],
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=False,
        handlelength=3.5,
    )
    return figure


# The command.

DRAWINGS = {
    "schedules": schedules,
    "initialization": initialization,
    "augmentation": augmentation,
    "preprocessing": preprocessing,
    "normalization": normalization,
    "diagnosis": diagnosis,
}


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without transparency, packed as small as it goes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        image.convert("RGB").save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DRAWINGS)}; all unless given")
    parser.add_argument("--output", type=Path, default=FIGURES, help="folder of the figures")
    parser.add_argument("--root", type=Path, default=DATA, help="folder of the data sets")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(DRAWINGS)
    if unknown:
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; see --help")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names or DRAWINGS:
        path = options.output / f"{name}.png"
        save(DRAWINGS[name](options.root), path)
        print(path)


if __name__ == "__main__":
    main()
