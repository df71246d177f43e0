"""Progress of a study: a line per trial, the best so far, the estimated end."""

from datetime import datetime, timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from studies.names import failure, label, reached, short_names

_STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class StudyProgress:
    """Print finished trials as they come, over a bar.

    Args:
        what: the noun, e.g. ``trial``.
        metric: its name.
        maximize: whether a higher value is better.
        total: how many trials there will be; None where only the time is limited.
        workers: how many run at once.
        lines: whether a trial that ends is worth a line, beside the bar.
    """

    def __init__(
        self,
        what: str,
        metric: str,
        *,
        maximize: bool,
        total: int | None,
        workers: int,
        lines: bool = True,
    ) -> None:
        self.lines = lines
        self.sign = 1 if maximize else -1
        self.metric = metric
        self.total = total
        self.workers = workers
        self.printed: set[int] | None = None
        self.console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}" if total else "{task.completed}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(f"{what}s", total=total, news="")
        self.what = what

    def __enter__(self) -> "StudyProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, trials: list[FrozenTrial]) -> None:
        """Print what has ended since the last call."""
        ended = [trial for trial in trials if trial.state.is_finished()]
        if self.printed is None:  # those of an earlier command are told in one line
            self.printed = {trial.number for trial in ended}
            if ended:
                self._print(f"going on after {len(ended)} {self.what}{'s' * (len(ended) > 1)}")
            self._print(f"{self.what:>5}  state   {self.metric:>12}  epochs   seconds  parameters")
        for trial in ended:
            if trial.number not in self.printed:
                self.printed.add(trial.number)
                self._print(self._line(trial))
        self.bar.update(self.task, completed=len(ended), news=self._news(ended))

    def _print(self, text: str) -> None:
        if self.lines:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _line(self, trial: FrozenTrial) -> str:
        attrs = trial.user_attrs
        value = reached(trial)
        values: dict[str, Any] = attrs.get("values") or trial.params
        values = {key: value for key, value in values.items() if value != ""}  # no group
        names = short_names(values)
        chosen = ", ".join(f"{names[key]} {label(value)}" for key, value in values.items())
        if trial.state == TrialState.FAIL:
            chosen += f"  ({failure(trial)})"
        epochs, seconds = attrs.get("epochs", 0), attrs.get("seconds", 0.0)
        shown = "" if value is None else f"{value:.4f}"
        state = _STATES[trial.state]
        return f"{trial.number:>5}  {state:<6}  {shown:>12}  {epochs:>6}  {seconds:>8.1f}  {chosen}"

    def _news(self, ended: list[FrozenTrial]) -> str:
        done = [trial for trial in ended if trial.state == TrialState.COMPLETE]
        if not done:
            return ""
        best = max(done, key=lambda trial: self.sign * (trial.value or 0.0))
        news = f"best {best.value:.4f} ({self.what} {best.number})"
        times = [t.duration.total_seconds() for t in ended if t.duration is not None]
        if self.total and len(ended) < self.total and times:
            left = (self.total - len(ended)) * sum(times) / len(times) / self.workers
            end = datetime.now() + timedelta(seconds=left)
            news += f" · ends about {end:%H:%M:%S}"
        return news
