from studies.report.words import (
    counted,
    decimals,
    interval,
    mean_and_deviation,
    points,
    signed,
)


def test_numbers_have_a_sign_and_a_unit() -> None:
    assert signed(0.01) == "+0.0100"
    assert signed(-0.01, 2) == "−0.01"
    assert points(-0.01234) == "−1.23"
    assert interval(-0.001, 0.001) == "−0.10 to +0.10"
    assert interval(None, 0.1) is interval(0.1, None) is None
    assert decimals(0.5) == "0.5000"
    assert decimals(12.34, 1) == "12.3"
    assert decimals(None) is None


def test_one_value_has_no_deviation_and_none_no_mean() -> None:
    assert mean_and_deviation([0.91, 0.92, 0.93]) == "0.9200 ± 0.0100"
    assert mean_and_deviation([0.5]) == "0.5000"
    assert mean_and_deviation([]) is None


def test_one_is_no_plural() -> None:
    assert [counted(n, "trial") for n in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]
