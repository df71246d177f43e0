"""Lightning's handler of SIGTERM is still what it was; a trainer of ours leaves it out."""

import inspect
import signal
from collections.abc import Callable

from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from experiment.cli import ExperimentCLI


def test_it_is_still_needed() -> None:
    assert "dist.broadcast" in inspect.getsource(_SignalConnector._sigterm_notifier_fn)


def test_a_trainer_leaves_the_handler_that_is_there(
    quick_fit: Callable[..., ExperimentCLI],
) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        trainer = quick_fit("--model=MLP", "--model.hidden_size=4").trainer
        trainer._signal_connector.register_signal_handlers()
        signal.raise_signal(signal.SIGTERM)
        trainer._signal_connector.teardown()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
    assert not trainer.received_sigterm
