"""Compare techniques over seeds: ``python compare.py --config configs/compare/optimizers.yaml``.

The same command goes on after an interruption, and on further machines with ``--storage``.
``python compare.py show --study runs/compare/optimizers`` prints the results again.
``python compare.py advise --config configs/baseline_cnn.yaml`` tunes a configuration.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)
import studies  # noqa: F401  isort: skip  (its imports have an order, too)

from studies.commands import answer
from studies.compare.comparison_command import COMMANDS
from studies.compare.comparison_study import ComparisonStudy


def main(args: list[str] | None = None) -> None:
    """Run a command line, e.g. ``main(["--config", "configs/compare/optimizers.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    answer(ComparisonStudy, args, COMMANDS)


if __name__ == "__main__":
    main()
