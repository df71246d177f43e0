"""Have a SIGTERM stop several processes together, where Lightning's own handling stops none.

Its handler sends a tensor to the other processes from wherever the signal met this one. They read
it as part of what they were waiting for, and all wait for ever
(https://github.com/Lightning-AI/pytorch-lightning/issues/20806). To find out what another process
was told, each one waits for process 0 in every step.
:class:`callbacks.interruption.Interruption` does better, more rarely.
"""

from typing import Any

from lightning import Trainer


def leave_sigterm_alone(trainer: Trainer) -> None:
    """Switch Lightning's handling of SIGTERM off; the handler that was there keeps its place."""

    connector: Any = trainer._signal_connector
    connector._sigterm_notifier_fn = lambda *_: None
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None
