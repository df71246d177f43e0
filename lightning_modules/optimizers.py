"""Optimizers that ``torch.optim`` has only in parts."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Muon for the matrices, AdamW for everything else.

    Muon orthogonalizes the momentum of a matrix before it takes the step, and is defined for
    matrices only: here the weights of linear layers. Convolutions, biases and norm parameters are
    AdamW's. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    Args:
        params: parameters; those with two dimensions, none of them 1, are Muon's, the output layer
            among them: the optimizer cannot know which one that is.
        lr: learning rate of Muon.
        momentum: of Muon.
        weight_decay: decoupled, of both.
        adamw_lr: learning rate of AdamW.
        adamw_betas: of AdamW.

    Raises:
        ValueError: a value that Muon or AdamW refuses.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        adamw_lr: float = 1e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        params = list(params)
        matrices = [p for p in params if p.ndim == 2 and min(p.shape) > 1]
        others = [p for p in params if not (p.ndim == 2 and min(p.shape) > 1)]
        self.inner: list[Optimizer] = []
        if matrices:
            self.inner.append(Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay))
        if others:
            self.inner.append(
                AdamW(others, lr=adamw_lr, betas=adamw_betas, weight_decay=weight_decay)
            )
        groups = [group for optimizer in self.inner for group in optimizer.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Let both work on this optimizer's groups (schedulers) and state (checkpoints)."""
        start = 0
        for optimizer in self.inner:
            end = start + len(optimizer.param_groups)
            optimizer.param_groups = self.param_groups[start:end]
            optimizer.state = self.state
            start = end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss


def probe(optimizer: OptimizerCallable) -> None:
    """Take a step that changes nothing: what an optimizer refuses, it refuses here and now.

    Raises:
        ValueError: a bad argument, e.g. a negative rate, or a class that takes no dense weights.
    """
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.zeros_like(weight)
    try:
        optimizer([weight]).step(lambda: 0.0)
    except RuntimeError as error:
        raise ValueError(f"this optimizer cannot train the network: {error}") from error
