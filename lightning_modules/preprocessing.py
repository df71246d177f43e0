"""Preprocessing: from pixels in 0…1 to what the first layer sees.

A preprocessor is a module inside the classifier. It is fitted once, on the training images only,
and keeps what it learned in buffers, so that a checkpoint carries its own statistics.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.pixels import as_float

Shape = tuple[int, int, int]

# The smallest step between two gray values: a spread below it is no spread.
_ONE_LEVEL = 1 / 255


class Preprocessor(nn.Module, ABC):
    """Base class of preprocessors: ``adapt`` to a shape, ``fit`` on images, then ``forward``."""

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A float: averages of weights leave it whole.
        self.register_buffer("fitted", torch.tensor(0.0))

    def adapt(self, image_shape: Shape) -> Shape:
        """Make the buffers for images of this shape, so that a checkpoint's fit in.

        Args:
            image_shape: (channels, height, width) of what comes in, in pixels.

        Returns:
            That of what comes out; the same unless overridden.

        Raises:
            ValueError: such images cannot be preprocessed like this.
        """
        return image_shape

    def resize(self, name: str, shape: tuple[int, ...]) -> None:
        """Give a buffer its shape; one that has it already keeps its values."""
        buffer = self.get_buffer(name)
        if buffer.shape != shape:
            setattr(self, name, buffer.new_zeros(shape))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Learn the statistics of the training images.

        Args:
            images: ``[N, C, H, W]``, uint8 in 0…255 or float in 0…1, NaN where missing.
        """
        channels, height, width = images.shape[1:]
        self.adapt((channels, height, width))
        self.fit_statistics(images)
        self.fitted.fill_(1.0)

    @abstractmethod
    def fit_statistics(self, images: Tensor) -> None:
        """Set the buffers; see :meth:`fit`."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Preprocess ``images``: float ``[N, C, H, W]`` in 0…1; what :meth:`adapt` says out."""


class MinMaxScaling(Preprocessor):
    """Scale so that the training set's darkest pixel is -1 and its brightest is 1.

    On MNIST and FashionMNIST, whose pixels span 0…255, this is the usual
    ``Normalize(mean=0.5, std=0.5)``.
    """

    minimum: Tensor
    maximum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("minimum", torch.tensor(0.0))
        self.register_buffer("maximum", torch.tensor(1.0))

    def fit_statistics(self, images: Tensor) -> None:
        if images.is_floating_point():
            images = images.nan_to_num(nan=0.0)
        minimum, maximum = images.aminmax()
        self.minimum.copy_(as_float(minimum))
        self.maximum.copy_(as_float(maximum))

    def forward(self, images: Tensor) -> Tensor:
        # The floor keeps a blank training set from dividing by zero.
        span = (self.maximum - self.minimum).clamp_min(_ONE_LEVEL)
        return (images - self.minimum) * (2 / span) - 1


class Standardize(Preprocessor):
    """Subtract the training set's mean and divide by its standard deviation.

    Args:
        per_pixel: a mean and deviation for every pixel instead of one for all. Pixels that hardly
            vary, as in the corners of MNIST, are divided by one gray level at least.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, per_pixel: bool = False) -> None:
        super().__init__()
        self.per_pixel = per_pixel
        self.register_buffer("mean", torch.zeros(1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1))

    def adapt(self, image_shape: Shape) -> Shape:
        if self.per_pixel:
            self.resize("mean", image_shape)
            self.resize("std", image_shape)
        return image_shape

    def fit_statistics(self, images: Tensor) -> None:
        pixels = as_float(images).nan_to_num(nan=0.0)
        over = (0,) if self.per_pixel else (0, 1, 2, 3)
        std, mean = torch.std_mean(pixels, dim=over, keepdim=True)
        self.mean.copy_(mean[0])
        self.std.copy_(std[0])

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std.clamp_min(_ONE_LEVEL)


class ZCAWhitening(Preprocessor):
    """Decorrelate the pixels and give each direction unit variance, staying close to the image.

    x → (x - mean)·U·diag(1/sqrt(λ + ε))·Uᵀ, with λ and U the eigenvalues and eigenvectors of the
    training pixels' covariance. Bell and Sejnowski 1997; Krizhevsky 2009, "Learning Multiple Layers
    of Features from Tiny Images", appendix A.

    Args:
        epsilon: added to every eigenvalue, in squared pixel units (0…1): directions with less
            variance than this are not blown up. 0.1 keeps noise down, 0.001 whitens nearly all.

    Raises:
        ValueError: an epsilon of 0 or less.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, epsilon: float = 0.01) -> None:
        super().__init__()
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}; expected more than 0")
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("matrix", torch.zeros(0, 0))

    def adapt(self, image_shape: Shape) -> Shape:
        size = math.prod(image_shape)
        self.resize("mean", (size,))
        self.resize("matrix", (size, size))
        return image_shape

    def fit_statistics(self, images: Tensor) -> None:
        pixels = as_float(images).nan_to_num(nan=0.0).flatten(1)
        self.mean.copy_(pixels.mean(dim=0))
        # float64: the smallest eigenvalues are far below float32's resolution of the largest.
        if len(pixels) < len(self.mean):  # no more directions than images: all others have 0
            centered = (pixels - self.mean).double() / len(pixels) ** 0.5
            _, deviations, directions = torch.linalg.svd(centered, full_matrices=False)
            eigenvalues, vectors = deviations.square(), directions.T
        else:
            covariance = torch.zeros(len(self.mean), len(self.mean), dtype=torch.float64)
            for chunk in pixels.split(10_000):
                centered = (chunk - self.mean).double()
                covariance += centered.T @ centered
            eigenvalues, vectors = torch.linalg.eigh(covariance / len(pixels))
        # What is left of the identity takes the scale of a direction without variance.
        rest = self.epsilon**-0.5
        scaled = vectors * ((eigenvalues.clamp_min(0) + self.epsilon).rsqrt() - rest)
        for rows, part in zip(self.matrix.split(1_000), scaled.split(1_000), strict=True):
            rows.copy_(part @ vectors.T)  # in parts, which need not all be float64 at once
        self.matrix.diagonal().add_(rest)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.flatten(1) - self.mean) @ self.matrix).view_as(images)


class PatchWhitening(Preprocessor):
    """Describe every small patch by its main directions, decorrelated and of unit variance.

    A fixed first layer instead of a trained one: a convolution with the leading eigenvectors of the
    training images' patches, each divided by sqrt(λ + ε), once with either sign, and a ReLU; so
    no sign is lost. Nothing flows back through it. With ``stride`` 2 what follows has a quarter of
    the pixels. Page 2019, "How to train your ResNet 8: bag of tricks"; Jordan 2024,
    arXiv:2404.00498; both signs: Shang et al. 2016, arXiv:1603.05201.

    Args:
        channels: of the result, two per direction; at most twice the pixels of a patch.
        kernel_size: side of the patches, in pixels.
        stride: pixels from one patch to the next.
        epsilon: added to every eigenvalue, in squared pixel units (0…1), against noise.

    Raises:
        ValueError: an odd number of channels or too many, a stride that the patches do not cover,
            an epsilon of 0 or less, or images smaller than a patch.
    """

    fitted_images = 5_000  # enough for the covariance of 16 numbers
    weight: Tensor

    def __init__(
        self,
        channels: int = 32,
        kernel_size: int = 4,
        stride: int = 2,
        epsilon: float = 0.001,
    ) -> None:
        super().__init__()
        if channels % 2 or channels < 2:
            raise ValueError(f"channels is {channels}; expected an even number, at least 2")
        if not 1 <= stride <= kernel_size:
            raise ValueError(f"stride is {stride}; expected 1 to the kernel_size, {kernel_size}")
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}; expected more than 0")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = (kernel_size - stride + 1) // 2
        self.epsilon = epsilon
        self.register_buffer("weight", torch.zeros(channels, 0, kernel_size, kernel_size))

    def adapt(self, image_shape: Shape) -> Shape:
        channels, size = len(self.weight), image_shape[0] * self.kernel_size**2
        if channels > 2 * size:
            raise ValueError(
                f"channels is {channels}; expected an even number, 2 to {2 * size} for patches of "
                f"{size} values"
            )
        self.resize("weight", (channels, image_shape[0], *2 * [self.kernel_size]))
        height, width = (
            (side + 2 * self.padding - self.kernel_size) // self.stride + 1
            for side in image_shape[1:]
        )
        if min(height, width) < 1:
            raise ValueError(
                f"kernel_size is {self.kernel_size}, but the images have "
                f"{image_shape[1]}x{image_shape[2]} pixels; choose smaller patches"
            )
        return channels, height, width

    def fit_statistics(self, images: Tensor) -> None:
        some = images[:: max(1, len(images) // self.fitted_images)][: self.fitted_images]
        pixels = as_float(some).nan_to_num(nan=0.0)
        patches = F.unfold(pixels, self.kernel_size, padding=self.padding, stride=self.stride)
        patches = patches.transpose(1, 2).flatten(0, 1)  # [patches, values]
        # About zero, not the mean: a layer without a bias sees the brightness as one direction.
        eigenvalues, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        scale = (eigenvalues.clamp_min(0) + self.epsilon).rsqrt()
        leading = (vectors * scale).T.flip(0)[: len(self.weight) // 2]
        self.weight.copy_(torch.cat([leading, -leading]).view_as(self.weight))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, stride=self.stride, padding=self.padding).relu()


class ClipOutliers(Preprocessor):
    """Clip every pixel to the training pixels' mean ± ``deviations`` standard deviations.

    Outliers widen the band that is meant to catch them; so mean and deviation are taken again from
    what lies inside, until nothing more falls out ("sigma clipping").

    Args:
        deviations: width of the band that is kept; the usual 3 leaves clean images untouched.

    Raises:
        ValueError: deviations of 0 or less.
    """

    low: Tensor
    high: Tensor

    def __init__(self, deviations: float = 3.0) -> None:
        super().__init__()
        if deviations <= 0:
            raise ValueError(f"deviations is {deviations}; expected more than 0")
        self.deviations = deviations
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    def fit_statistics(self, images: Tensor) -> None:
        pixels = as_float(images)
        pixels = pixels[~pixels.isnan()]
        inside = pixels
        for _ in range(20):  # a few rounds are enough; ends for sure
            std, mean = torch.std_mean(inside)
            low, high = mean - self.deviations * std, mean + self.deviations * std
            before, inside = len(inside), pixels[(pixels >= low) & (pixels <= high)]
            if len(inside) == before:
                break
        self.low.copy_(low)
        self.high.copy_(high)

    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(self.low, self.high)


class ImputeMissing(Preprocessor):
    """Fill missing pixels (NaN) with the mean of the 8 neighbors that are there.

    Where none is, with the mean of that pixel over the training images.
    """

    pixel_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(0, 0, 0))

    def adapt(self, image_shape: Shape) -> Shape:
        self.resize("pixel_mean", image_shape)
        return image_shape

    def fit_statistics(self, images: Tensor) -> None:
        # A pixel that is missing in every image is black.
        self.pixel_mean.copy_(as_float(images).nanmean(dim=0).nan_to_num(nan=0.0))

    def forward(self, images: Tensor) -> Tensor:
        missing = images.isnan()
        known = images.nan_to_num(nan=0.0)
        # Both averages have the same divisor, so that their ratio is the mean of what is there.
        total = F.avg_pool2d(known, 3, stride=1, padding=1)
        present = F.avg_pool2d((~missing).to(images.dtype), 3, stride=1, padding=1)
        neighbors = torch.where(present > 0, total / present, self.pixel_mean)
        return torch.where(missing, neighbors, known)
