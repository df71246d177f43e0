"""TrivialAugment, drawn per image."""

from typing import Any

import torch
from torch import Tensor, nn


class TrivialAugment(nn.Module):
    """Apply to every image one operation at one strength, both drawn for that image alone.

    The operations are kornia's and, as in the paper, none at all; kornia itself draws one for a
    whole batch. Posterizing keeps 2 bits at least: 0 would leave a blank image.
    Müller and Hutter 2021, arXiv:2103.10158.
    """

    def __init__(self) -> None:
        super().__init__()
        # Costs a second of start-up that only this needs.
        from kornia.augmentation.auto import TrivialAugment as KorniaTrivialAugment
        from kornia.augmentation.auto.trivial_augment.trivial_augment import default_policy

        policy: Any = [
            [("posterize", 2.0, 8.0)] if entry[0][0] == "posterize" else entry
            for entry in default_policy
        ]
        self.operations = nn.ModuleList([*KorniaTrivialAugment(policy).children(), nn.Identity()])

    def forward(self, images: Tensor) -> Tensor:
        """Augment ``images``: float ``[N, C, H, W]`` in 0…1; the same out."""
        choice = torch.randint(len(self.operations), (len(images),), device=images.device)
        augmented = images.clone()
        for index, operation in enumerate(self.operations):
            chosen = choice == index
            if chosen.any():
                augmented[chosen] = operation(images[chosen])
        return augmented
