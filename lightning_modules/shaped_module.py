"""A module whose layers are made once the data has said what it is."""

from typing import Any

from lightning import Callback, LightningModule

from foundation.errors import UserError

Shape = tuple[int, int, int]


class ShapedModule(LightningModule):
    """Base of what is made for images of one shape and a number of classes, both perhaps unknown.

    A subclass overrides :meth:`build`; its ``__init__`` keeps its arguments and ends with
    ``self.adapt()``. Layers may also be made in ``__init__`` where shape and number are given.

    Args:
        num_classes: number of classes; None until the data says it.
        image_shape: (channels, height, width) of the images, in pixels; None likewise.

    Raises:
        ValueError: a number of classes below 2, or no shape of an image.
    """

    def __init__(self, num_classes: int | None, image_shape: Shape | None) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
        if image_shape is not None and (len(image_shape) != 3 or min(image_shape) < 1):
            raise ValueError(
                f"image_shape is {image_shape}; expected (channels, height, width), each at least 1"
            )
        self._num_classes = num_classes
        self._image_shape = image_shape
        self._input_shape: Shape | None = None
        self._built = False

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0…num_classes-1."""
        return self._known(self._num_classes, "num_classes")

    @property
    def image_shape(self) -> Shape:
        """(channels, height, width) of the images, in pixels."""
        return self._known(self._image_shape, "image_shape")

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width) of what the first layer takes."""
        return self._known(self._input_shape, "input_shape")

    def _known(self, value: Any, name: str) -> Any:
        if value is None:
            raise UserError(
                f"{type(self).__name__} asks for {name} before the data has said it: make the "
                "layers in build(), or give --model.num_classes and --model.image_shape"
            )
        return value

    def build(self) -> None:
        """Make the layers, from ``input_shape`` to ``num_classes``."""

    def prepare(self, image_shape: Shape) -> Shape:
        """Make what is needed before :meth:`build`; return what the first layer takes."""
        return image_shape

    def adapt(self, image_shape: Shape | None = None, num_classes: int | None = None) -> None:
        """Make the layers, once, as soon as it is known what the images are.

        Called with nothing at the end of a network's construction, and with what the data says by
        the command line or, where model and data come to a Trainer, by :meth:`configure_callbacks`.

        Args:
            image_shape: of the data.
            num_classes: of the data; a network may have more.

        Raises:
            UserError: the network was made for other images, or for fewer classes.
            ValueError: the network refuses images of this size.
        """
        if image_shape is not None and self._image_shape not in (None, image_shape):
            raise UserError(
                f"image_shape is {self._image_shape}, but the data's images are {image_shape}; "
                "leave --model.image_shape out"
            )
        if num_classes is not None and (self._num_classes or num_classes) < num_classes:
            raise UserError(
                f"num_classes is {self._num_classes}, but the data has {num_classes} classes; set "
                f"--model.num_classes {num_classes}"
            )
        self._image_shape = self._image_shape or image_shape
        self._num_classes = self._num_classes or num_classes
        if self._built or self._image_shape is None or self._num_classes is None:
            return
        self._prepare_once()
        self._built = True
        self.build()

    def _prepare_once(self) -> None:
        """Call :meth:`prepare` where shape and number of classes are known."""
        if self._input_shape is None and self._image_shape and self._num_classes:
            # For load_from_checkpoint, which has no data.
            self.hparams.update(num_classes=self._num_classes, image_shape=self._image_shape)
            self._input_shape = self.prepare(self._image_shape)

    def configure_callbacks(self) -> list[Callback]:
        """No callbacks: the first hook that knows the data, before a callback copies the model.

        Raises:
            UserError: nothing says what the images are.
        """
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        self.adapt(
            getattr(datamodule, "image_shape", None), getattr(datamodule, "num_classes", None)
        )
        if not self._built:
            raise UserError(
                "nothing says what the images are: train with an ImageDataModule, or give "
                f"{type(self).__name__}(num_classes=…, image_shape=(channels, height, width))"
            )
        return []
