"""Search hyper-parameters: ``python search.py --config configs/search/grid.yaml``.

The same command goes on after an interruption, and on further machines with ``--storage``.
``python search.py show --study runs/search/grid`` prints the results again.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)
import studies  # noqa: F401  isort: skip  (its imports have an order, too)

from studies.commands import answer
from studies.search.search_command import COMMANDS
from studies.search.search_study import Search


def main(args: list[str] | None = None) -> None:
    """Run a command line, e.g. ``main(["--config", "configs/search/grid.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    answer(Search, args, COMMANDS)


if __name__ == "__main__":
    main()
