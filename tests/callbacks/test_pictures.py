"""TensorBoard shows the curves, the images, and the true mistakes and counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import train
from callbacks import pictures
from datamodules import FashionMNISTDataModule

SMALL = ("--model=BaselineCNN", "--model.width=4", "--model.hidden_size=16")
NAMES = list(FashionMNISTDataModule.class_names)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The folder of a finished ``fit``; shared."""
    runs = tmp_path_factory.mktemp("pictures")
    data = ["--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    limits = [f"--trainer.limit_{part}_batches=1" for part in ("val", "test")]
    options = ["--trainer.log_every_n_steps=2", "--trainer.enable_progress_bar=false", *limits]
    length = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=4"]
    train.main(["fit", *SMALL, *data, *options, *length, f"--runs_dir={runs}"])
    return runs / "BaselineCNN" / "version_0"


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_tensorboard_has_the_curves(run: Path) -> None:
    events = events_of(run)
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [event.step for event in events.Scalars(name)] == [3, 7]
    assert [event.value for event in events.Scalars("lr-Adam")] == pytest.approx([0.001] * 4)


def test_tensorboard_has_the_pictures(run: Path) -> None:
    events = events_of(run)
    # Once in a run: eight by eight images with a border of two pixels.
    (grid,) = events.Images("train/images")
    assert (grid.width, grid.height) == (8 * 30 + 2, 8 * 30 + 2)
    for name in ("val/confusion_matrix", "test/confusion_matrix", "test/most_confident_mistakes"):
        picture, *_ = events.Images(name)
        assert picture.width >= 700
        assert picture.encoded_image_string.startswith(b"\x89PNG")


def test_validate_draws_too(run: Path) -> None:
    before = len(events_of(run).Images("val/confusion_matrix"))
    train.main(["validate", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"])
    assert len(events_of(run).Images("val/confusion_matrix")) == before + 1


def test_counts_and_mistakes_are_those_of_the_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path
) -> None:
    drawn: dict[str, tuple[Any, ...]] = {}

    def record(name: str) -> None:
        draw = getattr(pictures, name)

        def recorded(*args: Any) -> Figure:
            drawn[name] = args
            return draw(*args)

        monkeypatch.setattr(pictures, name, recorded)

    record("confusion_figure")
    record("mistakes_figure")
    args = [f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}", "--trainer.limit_test_batches=4"]
    args += ["--data.eval_batch_size=300", "--trainer.precision=32-true"]
    cli = train.main(["test", *args])

    images, labels = (part[:1200] for part in FashionMNISTDataModule(str(data_root)).load(False))
    with torch.no_grad():
        confidence, predicted = cli.model.cpu().eval()(images).softmax(dim=1).max(dim=1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        counts[true, guess] += 1
    matrix, names = drawn["confusion_figure"]
    assert names == NAMES
    assert torch.equal(matrix, counts)

    shown, guesses, truths, sure, _ = drawn["mistakes_figure"]
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:25]
    assert len(shown) == 25
    assert (guesses != truths).all()
    assert (sure.diff() <= 0).all()
    torch.testing.assert_close(sure, confidence[worst])
    assert torch.equal(shown, images[worst])
    assert torch.equal(truths, labels[worst])
    assert torch.equal(guesses, predicted[worst])


def test_confusion_figure_writes_the_counts() -> None:
    matrix = torch.tensor([[7, 0], [2, 5]])
    (axes,) = pictures.confusion_figure(matrix, ["cat", "dog"]).axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "7", (0, 1): "2", (1, 1): "5"}  # column, row
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


@pytest.mark.parametrize("count", [1, 5, 7])
def test_mistakes_figure_titles_each_image(count: int) -> None:
    images: Tensor = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    label = torch.zeros(count, dtype=torch.int64)
    sure = torch.full((count,), 0.875)
    figure = pictures.mistakes_figure(images, label + 1, label, sure, ["cat", "dog"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["cat\nnot dog (88%)"] * count
    for shown, image, text in zip(axes.images, images, axes.texts, strict=True):
        assert torch.equal(torch.as_tensor(shown.get_array()), image[0])
        left, right, bottom, top = shown.get_extent()
        assert text.get_position() == ((left + right) / 2, top - 1)
        assert bottom - top == right - left == 28


def test_mistakes_in_color_are_shown_in_color() -> None:
    images: Tensor = torch.randint(0, 256, (3, 3, 40, 56), dtype=torch.uint8)
    label = torch.zeros(3, dtype=torch.int64)
    figure = pictures.mistakes_figure(images, label + 1, label, torch.ones(3), ["cat", "dog"])
    for shown, image in zip(figure.axes[0].images, images, strict=True):
        assert torch.equal(torch.as_tensor(shown.get_array()), image.movedim(0, 2))
