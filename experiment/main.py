"""The commands of ``train.py``, and its answers to mistakes."""

import logging
import os
import sys
import warnings

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.interruption import Interruption
from experiment.cli import ExperimentCLI
from experiment.ending import Ending
from foundation.disk import disk_reason, is_full
from foundation.errors import UserError, printable
from foundation.interruption import at_once, bound, end_with, later
from foundation.workarounds.tensorboard_thread import quiet_thread

# Warnings that nobody can act on here, each with the reason.
_QUIET = (
    # The data set is a tensor in memory: workers would only copy it.
    ".*does not have many workers.*",
    # The last batches of an epoch are fewer than log_every_n_steps where a run is short.
    ".*number of training batches .* is smaller than the logging interval.*",
    # Resuming and testing write into the run's own folder on purpose.
    ".*Checkpoint directory .* exists and is not empty.*",
    # Evaluation loads the weights alone, and needs no averaging state or checkpoint callback.
    "You're using the WeightAveraging callback, but loading a checkpoint outside.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Lightning's own calls, deprecated by torch.
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    # main(args) is this project's own way in, for tests and tools.
    "LightningCLI's args parameter is intended to run from within Python.*",
    # Lightning's own estimate of a model's size.
    "Precision .* is not supported by the model summary.*",
)


def quiet() -> None:
    """Leave out what nobody can act on: the warnings above, and Lightning's chatter."""
    for message in _QUIET:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet_thread()


def main(args: list[str] | None = None, interruption: Interruption | None = None) -> ExperimentCLI:
    """Run a command line, e.g. ``main(["fit", "--config", "configs/baseline_cnn.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.
        interruption: the callback that signals stop the run through; one of its own unless given.

    Raises:
        SystemExit: with a line that says what is wrong, for what the user can put right.
    """
    quiet()
    interruption = interruption or Interruption()
    try:
        return ExperimentCLI(args, interruption)
    except (UserError, MisconfigurationException) as error:
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        message = str(error)
    except OSError as error:
        reason = disk_reason(error, *interruption.folders())
        if reason is None:
            raise
        message = f"{reason}; {interruption.way_on()}" if is_full(error) else reason
    lines = "\n".join(map(printable, message.split("\n")))
    print(f"train.py: error: {lines}", file=sys.stderr)
    raise SystemExit(2)


def leave_process_group() -> None:
    """Leave the process group of DDP, where all processes have come to their end.

    One that exits while the group's threads run may abort, and takes the others along.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def command() -> None:
    """Do what ``python train.py …`` asks for."""
    if sys.argv[1:2] == ["diagnose"]:
        from diagnosis import finished_runs

        finished_runs.main(sys.argv[2:])
        return
    ending = Ending()
    bound(ending.now)
    if "LOCAL_RANK" in os.environ:  # Lightning or torchrun has started this process
        end_with(os.getppid())
    try:
        with later(), at_once():
            main(interruption=ending)
    except BaseException as error:
        ending.by(error)
        raise
    leave_process_group()
