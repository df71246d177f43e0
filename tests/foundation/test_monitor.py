import pytest

from foundation.monitor import mode_of


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/loss", "min"),
        ("train/loss", "min"),
        ("test/calibration_error", "min"),
        ("val/accuracy", "max"),
        ("val/f1", "max"),
    ],
)
def test_losses_and_errors_are_minimized(monitor: str, mode: str) -> None:
    assert mode_of(monitor) == mode
