"""Normalization layers: over what each of them normalizes. Pooling as it is compiled."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.norm import NormName, norm_layer, normed_weight
from lightning_modules.layers.pooling import CompilableMaxPool, MaxPool

NORMS: tuple[NormName, ...] = ("batch", "layer", "group", "instance")


def is_standardized(values: Tensor) -> bool:
    """Whether every row of ``values`` has mean 0 and variance 1."""
    mean, variance = values.mean(dim=1), values.var(dim=1, correction=0)
    return torch.allclose(mean, torch.zeros_like(mean), atol=1e-4) and torch.allclose(
        variance, torch.ones_like(variance), atol=1e-2
    )


@pytest.fixture
def pixels() -> Tensor:
    """Activations whose mean and spread differ by image, channel and pixel."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 16, 5, 5, generator=generator)
    scale = torch.rand(6, 16, 1, 1, generator=generator) * 4 + 1
    return values * scale + torch.randn(6, 16, 1, 1, generator=generator) * 10


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("batch", lambda x: x.transpose(0, 1).flatten(1)),  # a channel, all images
        ("layer", lambda x: x.flatten(1)),  # an image, all channels
        ("group", lambda x: x.reshape(12, -1)),  # an image, 8 channels
        ("instance", lambda x: x.reshape(96, -1)),  # an image, a channel
    ],
)
def test_standardises_exactly_the_described_slice_of_pixels(
    pixels: Tensor, name: NormName, rows: object
) -> None:
    assert callable(rows)
    assert not is_standardized(rows(pixels))
    assert is_standardized(rows(norm_layer(name, 16, spatial=True)(pixels)))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("batch", lambda x: x.T),
        ("layer", lambda x: x),
        ("group", lambda x: x.reshape(12, 8)),
    ],
)
def test_standardises_exactly_the_described_slice_of_a_vector(
    pixels: Tensor, name: NormName, rows: object
) -> None:
    assert callable(rows)
    vectors = pixels[:, :, 0, 0]
    assert not is_standardized(rows(vectors))
    assert is_standardized(rows(norm_layer(name, 16, spatial=False)(vectors)))


@pytest.mark.parametrize("spatial", [True, False])
def test_no_norm_passes_its_input_on(pixels: Tensor, spatial: bool) -> None:
    assert norm_layer(None, 16, spatial=spatial)(pixels) is pixels


@pytest.mark.parametrize("name", ["instance", "local_response", "weight"])
def test_what_has_nothing_to_normalize_in_vectors_passes_them_on(
    pixels: Tensor, name: NormName
) -> None:
    vectors = pixels[:, :, 0, 0]
    assert norm_layer(name, 16, spatial=False)(vectors) is vectors


def test_local_response_norm_divides_by_five_neighboring_channels(pixels: Tensor) -> None:
    power = pixels.pow(2)
    padded = torch.cat([torch.zeros(6, 2, 5, 5), power, torch.zeros(6, 2, 5, 5)], dim=1)
    around = torch.stack([padded[:, i : i + 16] for i in range(5)]).sum(dim=0)
    expected = pixels / (1 + around / 5) ** 0.75
    layer = norm_layer("local_response", 16, spatial=True)
    assert torch.allclose(layer(pixels), expected, atol=1e-4)


def test_weight_norm_splits_a_weight_into_length_and_direction_and_keeps_its_value() -> None:
    layer = nn.Linear(5, 3)
    before, x = layer.weight.detach().clone(), torch.randn(2, 5)
    plain = layer(x)
    normed = normed_weight(layer, "weight")
    assert torch.allclose(normed(x), plain, atol=1e-6)
    length = normed.get_parameter("parametrizations.weight.original0")
    assert torch.allclose(length.flatten(), before.norm(dim=1))
    with torch.no_grad():
        normed.get_parameter("parametrizations.weight.original1").mul_(7)
    assert torch.allclose(normed(x), plain, atol=1e-6)


@pytest.mark.parametrize("name", [None, "batch", "layer", "group", "instance", "local_response"])
def test_every_other_norm_leaves_the_weights_alone(name: NormName | None) -> None:
    assert list(dict(normed_weight(nn.Linear(5, 3), name).named_parameters())) == ["weight", "bias"]


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_group_norm_takes_all_channels_as_one_group_where_8_do_not_divide_them(
    channels: int,
) -> None:
    images = torch.randn(3, channels, 5, 5) * 3 + 1
    assert is_standardized(norm_layer("group", channels, spatial=True)(images).flatten(1))


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_of_pixels_learns_a_scale_and_a_shift_per_channel(name: NormName) -> None:
    parameters = dict(norm_layer(name, 16, spatial=True).named_parameters())
    assert {key: value.tolist() for key, value in parameters.items()} == {
        "weight": [1.0] * 16,
        "bias": [0.0] * 16,
    }


def test_only_batch_norm_depends_on_the_other_images(pixels: Tensor) -> None:
    alone = {
        name: torch.allclose(layer(pixels)[:2], layer(pixels[:2]), atol=1e-5)
        for name in NORMS
        for layer in [norm_layer(name, 16, spatial=True)]
    }
    assert alone == {"batch": False, "layer": True, "group": True, "instance": True}


def test_batch_norm_uses_running_statistics_in_evaluation(pixels: Tensor) -> None:
    layer = norm_layer("batch", 16, spatial=True)
    assert isinstance(layer, nn.BatchNorm2d)
    layer.momentum = 1.0
    layer(pixels)
    assert torch.allclose(layer.eval()(pixels), layer.train()(pixels), atol=2e-2)


@pytest.mark.parametrize("spatial", [True, False])
def test_an_unknown_norm_is_refused_by_name(spatial: bool) -> None:
    with pytest.raises(ValueError, match=r"norm is 'spectral'; expected one of .*batch.*layer"):
        norm_layer("spectral", 16, spatial=spatial)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 5), (1, 1, 2, 3)])
def test_compilable_pooling_is_torchs_own_with_its_gradients(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few different values: most squares hold equal ones, of which one gets the gradient.
    values = torch.randint(-1, 3, shape, generator=generator).to(dtype)
    found = []
    for pool in (CompilableMaxPool.apply, lambda x: F.max_pool2d(x, 2)):
        features = values.to(memory_format=layout).requires_grad_()
        pooled = pool(features)
        weights = torch.arange(1.0, pooled.numel() + 1).view_as(pooled)
        (pooled * weights).sum().backward()
        assert features.grad is not None
        found.append((pooled, features.grad))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert torch.equal(ours, theirs)
    assert torch.equal(our_gradient, their_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_is_compiled_by_its_own_formula_and_exported_as_torchs(dtype: torch.dtype) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    features = torch.randn(2, 3, 7, 5).to(dtype)
    compiled = torch.compile(MaxPool(), backend=capture)
    assert torch.equal(compiled(features), F.max_pool2d(features, 2))
    assert "max_pool2d" not in graphs[0].code
    assert "max_pool2d" in torch.export.export(MaxPool(), (features,)).graph_module.code
