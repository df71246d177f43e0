"""The direction in which a metric is better."""

import pytest

from foundation.monitor import mode_of


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/loss", "min"),
        ("train/loss", "min"),
        ("test/calibration_error", "min"),
        ("val/accuracy", "max"),
        ("test/f1_macro", "max"),
    ],
)
def test_losses_and_errors_are_to_fall_and_everything_else_is_to_rise(
    monitor: str, mode: str
) -> None:
    assert mode_of(monitor) == mode


def test_a_name_that_does_not_say_leaves_the_mode_as_it_was() -> None:
    assert mode_of("val/perplexity") == "max"
    assert mode_of("val/perplexity", otherwise="min") == "min"
    assert mode_of("val/accuracy", otherwise="min") == "max"
