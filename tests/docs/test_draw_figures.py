import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

from docs import draw_figures
from lightning_modules.layers.norm import NormName

DOCS = Path(__file__).parents[2] / "docs"

OVERLAYS = sorted(path.stem for path in draw_figures.OVERLAYS.glob("*/*.yaml"))
PAGES = sorted(
    [
        *DOCS.glob("*.md"),
        *DOCS.parent.glob("*.md"),
        *DOCS.parent.glob("configs/techniques/*/README.md"),
    ]
)


# The pages.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_figure_is_shown_and_has_its_command() -> None:
    for name in draw_figures.DRAWINGS:
        page = (DOCS / f"{name}.md").read_text()
        assert f"](figures/{name}.png)" in page
        assert f"`python docs/draw_figures.py {name}`" in page


# The figures.


def check_png(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        assert 800 <= image.width <= 1200
        assert 500 <= image.height <= 1200
        assert len(image.convert("L").getcolors(256) or []) > 20  # something is drawn
    assert 10_000 < path.stat().st_size < 200_000


@pytest.mark.parametrize("name", draw_figures.DRAWINGS)
def test_committed_figure(name: str) -> None:
    check_png(DOCS / "figures" / f"{name}.png")


@pytest.mark.parametrize("name", ["schedules", "initialization", "augmentation", "normalization"])
def test_draws(name: str, tmp_path: Path, data_root: Path, capsys: Any) -> None:
    output = tmp_path / "new" / "folder"
    draw_figures.main([name, "--output", str(output), "--root", str(data_root)])
    assert [path.name for path in output.iterdir()] == [f"{name}.png"]
    assert f"{name}.png" in capsys.readouterr().out
    check_png(output / f"{name}.png")


@pytest.mark.slow
def test_draws_preprocessing(tmp_path: Path, data_root: Path) -> None:
    figure = draw_figures.preprocessing(data_root, train_fraction=0.01)
    draw_figures.save(figure, tmp_path / "preprocessing.png")
    check_png(tmp_path / "preprocessing.png")


def test_unknown_name_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        draw_figures.main(["schedule", "--output", str(tmp_path / "none")])
    assert stop.value.code == 2
    assert "schedule" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


# What the figures show.


def test_families_follow_the_overlays() -> None:
    assert draw_figures.overlays("initializer") == [n for n in OVERLAYS if n.startswith("init_")]
    assert "warmup_cosine" in draw_figures.overlays("lr_scheduler")
    mixing = draw_figures.overlays("augmentation+", "mixing+")
    assert mixing[-2:] == ["cutmix", "mixup"]
    assert set(draw_figures.overlays("cleaning+")) == set(draw_figures.DAMAGE)


@pytest.mark.parametrize("name", draw_figures.overlays("lr_scheduler"))
def test_learning_rates(name: str) -> None:
    rates = draw_figures.learning_rates(name)
    assert len(rates) == draw_figures.EPOCHS * draw_figures.STEPS
    assert min(rates) >= 0
    assert max(rates) == pytest.approx(1.0)  # the optimizer's own rate
    assert min(rates) < 0.5


def test_schedules_step_by_step_or_by_epoch() -> None:
    assert len(set(draw_figures.learning_rates("cosine_lr"))) > 500
    assert len(set(draw_figures.learning_rates("exponential_lr"))) == draw_figures.EPOCHS


@pytest.mark.parametrize("name", get_args(NormName))
def test_shared_values(name: NormName) -> None:
    values = draw_figures.shared(name)
    assert tuple(values.shape) == (draw_figures.N, draw_figures.C, draw_figures.SIDE**2)
    images = int(values.any(dim=2).any(dim=1).sum())
    channels = int(values.any(dim=2).any(dim=0).sum())
    pixels = int(values.any(dim=1).any(dim=0).sum())
    expected = {
        "batch": (4, 1, 4),
        "layer": (1, 16, 4),
        "group": (1, 8, 4),
        "instance": (1, 1, 4),
        "local_response": (1, 5, 1),
        "weight": (4, 1, 4),
    }
    assert (images, channels, pixels) == expected[name]
    assert int(values.sum()) == images * channels * pixels


def test_signal_vanishes_without_scaling_only() -> None:
    images, labels = torch.randn(200, 784), torch.randint(10, (200,))
    ends = {}
    for name in ("init_gaussian", "init_he_normal"):
        initializer = draw_figures.configured(name).model.initializer
        outputs, gradients = draw_figures.signal(images, labels, initializer, torch.nn.ReLU())
        assert len(outputs) == len(gradients) == draw_figures.LAYERS
        ends[name] = (outputs[-1], gradients[0])
    assert max(ends["init_gaussian"]) < 1e-6
    assert 0.3 < ends["init_he_normal"][0] < 3
    assert ends["init_he_normal"][1] > 0.01


def test_mixture_names_both_shares() -> None:
    classes = ("T-shirt/top", "Bag", "Ankle boot")
    assert draw_figures.mixture(torch.tensor([0.0, 0.26, 0.74]), classes) == "74% boot\n26% bag"
    assert draw_figures.mixture(torch.tensor([1.0, 0.0, 0.0]), classes) == "100% t-shirt"
