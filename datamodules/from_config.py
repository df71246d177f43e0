"""The data module that a configuration names."""

import json
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from datamodules.image_datamodule import ImageDataModule


def datamodule_of(data: str) -> Any:
    """The data module of a configuration, JSON; nothing is loaded."""
    config = json.loads(data)
    for unused in ("augmentation", "mixing"):
        config.get("init_args", {}).pop(unused, None)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    return parser.instantiate(parser.parse_object({"data": config})).data
