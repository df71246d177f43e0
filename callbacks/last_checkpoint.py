"""The checkpoint that a run goes on from."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override

from foundation.whole_file import write

NAME = "last.ckpt"


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The file that the run can go on from; None before there is one."""
    found = (c.path for c in trainer.callbacks if isinstance(c, LastCheckpoint))  # type: ignore[attr-defined]
    return next((path for path in found if path and path.is_file()), None)


class LastCheckpoint(Callback):
    """Write ``last.ckpt`` between epochs, better or not, so that a run can go on from there.

    Only when an epoch is over altogether: its metrics are logged, which Lightning does after the
    last hook that its own callback could save in, and the schedule has stepped. The logs are on
    disk before the checkpoint is. It comes before callbacks that change the weights at the end.

    Where a resumed checkpoint was moved, the best one so far is taken from beside it; if it is not
    there, the best of the epochs that follow is kept.

    Args:
        dirpath: folder of the checkpoint; the run's ``checkpoints`` unless given.

    Attributes:
        path: of the file; None before there is one.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self.path: Path | None = None
        self._saving = False
        self._resumed_between_epochs = False

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"between_epochs": self._saving}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed_between_epochs = state_dict["between_epochs"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._resumed_between_epochs:
            return
        # Nothing is left to be made up for, as there is where an epoch was interrupted.
        trainer.fit_loop.restarting = False
        stops = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
        if any(stop.wait_count >= stop.patience for stop in stops):
            trainer.should_stop = True

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch and not trainer.fit_loop.is_resuming:
            self._save(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fit_loop.is_resuming:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        folder = self.dirpath or getattr(trainer.checkpoint_callback, "dirpath", None)
        path = Path(folder or Path(trainer.log_dir or trainer.default_root_dir, "checkpoints"))
        self._saving = True
        try:
            trainer.save_checkpoint(path / NAME)
            self.path = path / NAME
        finally:
            self._saving = False

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._saving:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in progress.values():
            count["ready"] = count["completed"]  # the next one is not begun

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell the checkpoint callbacks where the run's folder is now; it may have been moved."""
        fitting = trainer.state.fn == "fit"
        self.path = Path(trainer.ckpt_path or "") if fitting else self.path
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder is None:
            return
        states = checkpoint.get("callbacks", {})
        for state in states.values():
            if "best_model_path" not in state:
                continue
            moved = {
                path: str(Path(folder, Path(path).name))
                for path in (*state["best_k_models"], state["best_model_path"])
                if path
            }
            if fitting and trainer.is_global_zero:
                assert self.path is not None
                for here in map(Path, moved.values()):
                    beside = self.path.with_name(here.name)
                    if not here.is_file() and beside.is_file():
                        write(here, beside.read_bytes())
            trainer.strategy.barrier()
            there = {path: here for path, here in moved.items() if Path(here).is_file()}
            state["dirpath"] = folder
            state["best_k_models"] = {
                there[path]: score
                for path, score in state["best_k_models"].items()
                if path in there
            }
            for name in ("best_model_path", "kth_best_model_path"):
                state[name] = there.get(state[name], "")
            state["last_model_path"] = ""
            if not state["best_model_path"]:
                state["best_model_score"] = None
                states.get("RunSummary", {}).pop("best", None)
