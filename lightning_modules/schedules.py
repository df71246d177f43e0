"""Learning-rate schedules: what ``torch.optim.lr_scheduler`` lacks to be a line of YAML."""

from collections.abc import Callable
from functools import partial
from inspect import isclass
from typing import Any

import torch.optim.lr_scheduler as torch_schedulers
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer

# The names under which torch's schedulers take their length.
_LENGTHS = ("T_max", "total_iters", "total_steps")


class SequentialLR(torch_schedulers.SequentialLR):
    """One schedule after another, each given as a class and its arguments.

    torch's own SequentialLR takes schedulers that were built with the optimizer, which a
    configuration file cannot have.

    Args:
        optimizer: wrapped optimizer.
        schedulers: schedules without their optimizer. A length of -1 is the distance between the
            two milestones around it.
        milestones: steps at which the next schedule takes over, one fewer than schedules.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int]
    ) -> None:
        super().__init__(optimizer, [make(optimizer) for make in schedulers], milestones)


class ChainedScheduler(torch_schedulers.ChainedScheduler):
    """Several schedules whose factors multiply, each given as a class and its arguments.

    Args:
        optimizer: wrapped optimizer.
        schedulers: schedules without their optimizer.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable]) -> None:
        super().__init__([make(optimizer) for make in schedulers], optimizer)


class InverseTime:
    """Factor 1 / (1 + decay·t), for ``LambdaLR``: the schedule that SGD's theory asks for.

    Robbins and Monro 1951.

    Args:
        decay: per scheduler step; at t = 1/decay the rate is half of what it was.

    Raises:
        ValueError: a decay below 0.
    """

    def __init__(self, decay: float = 0.5) -> None:
        if decay < 0:
            raise ValueError(f"decay is {decay}; expected at least 0")
        self.decay = decay

    def __call__(self, step: int) -> float:
        return 1 / (1 + self.decay * step)


def build_scheduler(
    make: LRSchedulerCallable, optimizer: Optimizer, run_length: Callable[[], int]
) -> Any:
    """Build a schedule, and fill in what it leaves open.

    Open is a length of -1 (the whole run); OneCycleLR's default of neither ``total_steps`` nor
    ``epochs`` (likewise); and OneCycleLR's ``max_lr`` of -1 (the optimizer's own rate).

    Args:
        make: a schedule without its optimizer: a class or a ``functools.partial`` of one.
        optimizer: wrapped optimizer.
        run_length: asked only where a length is open; the number of scheduler steps.
    """
    keywords = getattr(make, "keywords", {})
    # The command line makes partial(instantiate, SchedulerClass, **keywords).
    candidates = (make, getattr(make, "func", None), *getattr(make, "args", ()))
    scheduler_class = next((c for c in candidates if isclass(c)), None)
    filled: dict[str, Any] = {name: run_length() for name in _LENGTHS if keywords.get(name) == -1}
    if scheduler_class is torch_schedulers.OneCycleLR:
        if not (keywords.get("total_steps") or keywords.get("epochs")):
            filled["total_steps"] = run_length()
        if keywords.get("max_lr") == -1:
            filled["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    schedules = keywords.get("schedulers", [])
    milestones = keywords.get("milestones")
    spans: list[tuple[int, int | None]] = [(0, None)] * len(schedules)
    if milestones is not None:
        spans = list(zip([0, *milestones], [*milestones, None], strict=True))
    if schedules and len(schedules) == len(spans):  # where not, torch says what is wrong
        filled["schedulers"] = [
            partial(build_scheduler, schedule, run_length=partial(_length, span, run_length))
            for schedule, span in zip(schedules, spans, strict=True)
        ]
    return make(optimizer, **filled)


def schedule_lengths(scheduler: Any) -> list[dict[str, int]]:
    """The lengths of a schedule and of those it is made of, by the names torch gives them."""
    parts = [scheduler, *getattr(scheduler, "_schedulers", [])]
    return [{name: getattr(s, name) for name in _LENGTHS if hasattr(s, name)} for s in parts]


def _length(span: tuple[int, int | None], run_length: Callable[[], int]) -> int:
    """At least 1, where the run ends before the schedule's turn comes."""
    start, end = span
    return max(1, (run_length() if end is None else end) - start)
