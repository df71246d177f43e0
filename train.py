"""Train, validate, test and predict: ``python train.py fit --config configs/optimized_cnn.yaml``.

Configurations compose from left to right, and every value can be set on the command line. A run is
a folder, ``runs/<experiment>/version_<N>``; ``test`` and ``predict`` need only ``--ckpt_path``.
``python train.py diagnose runs/…`` says what is wrong with runs that are finished.
"""

from experiment.main import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
