"""What a user reads while a study runs."""

import io
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from studies.progress import StudyProgress

LR, WIDTH = "model.init_args.optimizer.init_args.lr", "model.init_args.width"


def trial(
    number: int, state: TrialState, value: float | None = None, seconds: float = 4.0, **attrs: Any
) -> FrozenTrial:
    start = datetime(2026, 1, 1)
    ended = state.is_finished()
    return FrozenTrial(
        number=number,
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        datetime_start=None if state == TrialState.WAITING else start,
        datetime_complete=start + timedelta(seconds=seconds) if ended else None,
        params={LR: 0.0123456, WIDTH: 8},
        distributions={
            LR: FloatDistribution(1e-4, 1, log=True),
            WIDTH: CategoricalDistribution((8, 16)),
        },
        user_attrs={"epochs": 3, "seconds": seconds, **attrs},
        system_attrs={},
        intermediate_values={1: 0.2, 2: 0.5} if state != TrialState.COMPLETE and ended else {},
        trial_id=number,
    )


@pytest.fixture
def progress() -> StudyProgress:
    return made()


def made(maximize: bool = True, total: int | None = 4, workers: int = 1) -> StudyProgress:
    made = StudyProgress("trial", "val/loss", maximize=maximize, total=total, workers=workers)
    made.console = Console(file=io.StringIO(), width=60)
    return made


def lines(progress: StudyProgress) -> list[str]:
    """What was printed since the last call."""
    file: Any = progress.console.file
    text = file.getvalue()
    file.seek(0)
    file.truncate()
    return text.splitlines()


def news(progress: StudyProgress) -> str:
    return progress.bar.tasks[0].fields["news"]


DONE = trial(0, TrialState.COMPLETE, 0.875)
PRUNED = trial(1, TrialState.PRUNED, epochs=2, seconds=1.25)
FAILED = trial(2, TrialState.FAIL, epochs=1, reason="width is 0; expected at least 1")


def test_a_line_for_every_trial_that_ended(progress: StudyProgress) -> None:
    progress.update([])
    assert [line.split() for line in lines(progress)] == [
        ["trial", "state", "val/loss", "epochs", "seconds", "parameters"]
    ]
    progress.update([DONE, PRUNED, FAILED, trial(3, TrialState.RUNNING)])
    done, pruned, failed = lines(progress)
    assert done.split() == ["0", "done", "0.8750", "3", "4.0", "lr", "0.01235,", "width", "8"]
    assert pruned.split() == ["1", "pruned", "0.5000", "2", "1.2", "lr", "0.01235,", "width", "8"]
    assert failed.split()[:4] == ["2", "failed", "1", "4.0"]  # no value
    assert failed.endswith("lr 0.01235, width 8  (width is 0; expected at least 1)")
    assert done.index("lr") == pruned.index("lr") == failed.index("lr")  # columns


def test_every_trial_is_told_once(progress: StudyProgress) -> None:
    progress.update([])
    progress.update([DONE])
    lines(progress)
    progress.update([DONE])
    assert lines(progress) == []
    progress.update([DONE, FAILED])  # not in the order in which they began
    assert [line.split()[0] for line in lines(progress)] == ["2"]
    progress.update([DONE, PRUNED, FAILED])
    assert [line.split()[0] for line in lines(progress)] == ["1"]


@pytest.mark.parametrize(
    ("trials", "words"),
    [([DONE], "going on after 1 trial"), ([DONE, FAILED], "going on after 2 trials")],
)
def test_trials_of_an_earlier_command_are_told_in_one_line(
    progress: StudyProgress, trials: list[FrozenTrial], words: str
) -> None:
    progress.update([*trials, trial(3, TrialState.WAITING)])
    first, header = lines(progress)
    assert first == words
    assert header.split()[0] == "trial"
    progress.update([*trials, trial(3, TrialState.COMPLETE, 0.5)])
    assert [line.split()[:3] for line in lines(progress)] == [["3", "done", "0.5000"]]


def test_a_failure_without_a_reason(progress: StudyProgress) -> None:
    progress.update([])
    progress.update([trial(0, TrialState.FAIL)])
    assert lines(progress)[-1].endswith("(no reason recorded)")


def test_markup_in_a_value_is_text(progress: StudyProgress) -> None:
    progress.update([])
    progress.update([trial(0, TrialState.FAIL, reason="[bold]no[/bold] [/x]")])
    assert lines(progress)[-1].endswith("([bold]no[/bold] [/x])")


def test_values_of_a_trial_are_told_as_they_were_chosen(progress: StudyProgress) -> None:
    progress.update([])
    chosen = {"model.init_args.norm": None, "augmentation": "flip"}
    progress.update([trial(0, TrialState.COMPLETE, 0.5, values=chosen)])
    assert lines(progress)[-1].endswith("norm none, augmentation flip")


@pytest.mark.parametrize(("maximize", "best"), [(True, "0.9000 (trial 1)"), (False, "-0.1")])
def test_the_best_so_far(maximize: bool, best: str) -> None:
    progress = made(maximize)
    values = [(0, 0.8), (1, 0.9), (2, -0.1)]
    trials = [trial(number, TrialState.COMPLETE, value) for number, value in values]
    progress.update([PRUNED, FAILED])
    assert news(progress) == ""  # nothing was completed
    progress.update([*trials, PRUNED])
    assert news(progress).startswith(f"best {best}")


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1000), (2, 500)])
def test_the_estimated_end(workers: int, seconds: int) -> None:
    progress = made(total=4, workers=workers)
    trials = [trial(i, TrialState.COMPLETE, 0.5, seconds=s) for i, s in enumerate((400, 600))]
    before = datetime.now()
    progress.update([*trials, trial(2, TrialState.RUNNING)])
    match = re.search(r"ends about (\d\d:\d\d:\d\d)$", news(progress))
    assert match is not None
    ends = datetime.combine(before, datetime.strptime(match[1], "%H:%M:%S").time())
    late = (ends - before).total_seconds() % 86400  # two trials left, 500 seconds each
    assert seconds - 2 <= late <= seconds + 5
    assert progress.bar.tasks[0].completed == 2


@pytest.mark.parametrize("total", [None, 1])
def test_no_end_is_estimated_where_there_is_none(total: int | None) -> None:
    progress = made(total=total)
    progress.update([DONE])
    assert news(progress) == "best 0.8750 (trial 0)"


def test_no_bar_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with StudyProgress("trial", "val/loss", maximize=False, total=2, workers=1) as progress:
        progress.update([])
        progress.update([DONE])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "\x1b" not in "".join(printed)
