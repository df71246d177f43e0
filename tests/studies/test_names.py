"""Names and reasons in words; the names of columns are in tests/studies/search."""

import pytest

from studies.names import all_failed


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        ([], None),
        ([None], None),
        (["loss is nan", None], None),
        (["loss is nan"], "the only run failed; the commonest reason: loss is nan"),
        (
            ["loss is nan at step 3", "no memory", "loss is nan at step 12"],
            "all 3 runs failed; the commonest reason (2 of them): loss is nan at step 3",
        ),
    ],
)
def test_that_all_failed_is_said_with_the_commonest_reason(
    reasons: list[str | None], says: str | None
) -> None:
    assert all_failed("run", reasons) == says
