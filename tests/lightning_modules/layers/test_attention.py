"""Attention for feature maps: against its formulas, at every size, with its gradients."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import CrissCrossAttention, SqueezeExcitation

SHAPES = [(2, 16, 7, 7), (3, 8, 5, 9), (2, 9, 6, 3), (1, 3, 4, 5), (2, 8, 1, 6), (2, 8, 6, 1)]


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Squeeze-and-excitation.


@pytest.mark.parametrize(
    ("channels", "reduction", "units"), [(64, 16, 4), (64, 8, 8), (8, 16, 1), (1, 8, 1), (9, 2, 4)]
)
def test_the_bottleneck_has_a_unit_at_least(channels: int, reduction: int, units: int) -> None:
    layer = SqueezeExcitation(channels, reduction)
    # Down and up again, with biases.
    expected = channels * units + units + units * channels + channels
    assert sum(weight.numel() for weight in layer.parameters()) == expected
    assert layer(torch.rand(2, channels, 4, 4)).shape == (2, channels, 4, 4)


@pytest.mark.parametrize(("channels", "reduction"), [(1, 8), (32, 8)])
def test_the_gate_depends_on_the_image(channels: int, reduction: int) -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(channels, reduction)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.abs_()  # a single unit must not start dead
    image = torch.rand(1, channels, 6, 6) + 0.1
    dark, bright = (layer(image * scale) / (image * scale) for scale in (0.1, 3.0))
    assert (bright - dark).abs().min() > 1e-3
    assert torch.allclose(dark, dark[:, :, :1, :1])  # one factor per channel
    assert 0 < dark.min() < bright.max() < 1


def test_squeeze_excitation_follows_its_formula() -> None:
    layer = SqueezeExcitation(12, 4).double()
    down, up = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
    features = noise(3, 12, 5, 7)
    assert down.bias is not None
    assert up.bias is not None
    squeezed = features.mean(dim=(2, 3)) @ down.weight.flatten(1).T + down.bias
    gate = torch.sigmoid(squeezed.clamp_min(0) @ up.weight.flatten(1).T + up.bias)
    torch.testing.assert_close(layer(features), features * gate[:, :, None, None])


@pytest.mark.parametrize(("channels", "reduction"), [(0, 8), (-1, 8), (8, 0)])
def test_squeeze_excitation_refuses_a_size_below_one(channels: int, reduction: int) -> None:
    with pytest.raises(ValueError, match=f"channels is {channels}, reduction {reduction}; "):
        SqueezeExcitation(channels, reduction)


# Criss-cross attention.


def trained(channels: int, gamma: float = 0.7) -> CrissCrossAttention:
    """With a gamma that lets the attention through."""
    torch.manual_seed(0)
    layer = CrissCrossAttention(channels).double()
    nn.init.constant_(layer.gamma, gamma)
    return layer


def full_attention(layer: CrissCrossAttention, features: Tensor) -> Tensor:
    """Every position to every position, with all but its row and column masked."""
    height, width = features.shape[2:]
    query, key, value = (
        conv(features).flatten(2) for conv in (layer.query, layer.key, layer.value)
    )
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    seen = (row[:, None] == row) | (column[:, None] == column)
    assert seen.sum(dim=1).eq(height + width - 1).all()
    energy = (query.transpose(1, 2) @ key).masked_fill(~seen, float("-inf"))
    attended = value @ energy.softmax(dim=2).transpose(1, 2)
    return layer.gamma * attended.view_as(features) + features


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_criss_cross_is_full_attention_within_row_and_column(shape: tuple[int, ...]) -> None:
    layer, features = trained(shape[1]), noise(*shape)
    assert (layer(features) - full_attention(layer, features)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_criss_cross_has_the_gradients_of_full_attention(shape: tuple[int, ...]) -> None:
    layer, features, toward = trained(shape[1]), noise(*shape).requires_grad_(), noise(*shape)
    sources = [features, *layer.parameters()]
    ours = torch.autograd.grad((layer(features) * toward.flip(0)).sum(), sources)
    theirs = torch.autograd.grad((full_attention(layer, features) * toward.flip(0)).sum(), sources)
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() < 1e-9
    # A key's bias adds the same to a whole softmax; everything else must learn something.
    names = ["input", *(name for name, _ in layer.named_parameters())]
    dead = {name for name, gradient in zip(names, ours, strict=True) if not gradient.any()}
    assert dead <= {"key.bias"}


def test_gradients_agree_with_finite_differences() -> None:
    layer = trained(2)
    assert torch.autograd.gradcheck(layer, noise(1, 2, 3, 4).requires_grad_())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_criss_cross_starts_as_the_identity_and_learns_gamma_first(shape: tuple[int, ...]) -> None:
    layer, features = CrissCrossAttention(shape[1]).double(), noise(*shape)
    assert layer.gamma.item() == 0
    result = layer(features)
    assert torch.equal(result, features)
    result.square().sum().backward()
    assert layer.gamma.grad is not None
    assert layer.gamma.grad.abs() > 0


def test_a_position_sees_its_row_and_its_column_only() -> None:
    layer, features = trained(8), noise(1, 8, 5, 6).requires_grad_()
    layer(features)[0, :, 2, 3].sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(dim=0) > 0
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2, :] = expected[:, 3] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(("channels", "inner"), [(1, 1), (7, 1), (8, 1), (64, 8)])
def test_queries_and_keys_have_an_eighth_of_the_channels(channels: int, inner: int) -> None:
    layer = CrissCrossAttention(channels)
    # Query and key to the inner channels, value to all, biases, gamma.
    expected = 2 * (channels * inner + inner) + channels * channels + channels + 1
    assert sum(weight.numel() for weight in layer.parameters()) == expected


def test_the_layout_of_the_input_changes_nothing() -> None:
    layer, features = trained(16), noise(2, 16, 6, 5)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(last), layer(features))


@pytest.mark.parametrize("channels", [0, -8])
def test_criss_cross_refuses_a_size_below_one(channels: int) -> None:
    with pytest.raises(ValueError, match=f"channels is {channels}; expected at least 1"):
        CrissCrossAttention(channels)
