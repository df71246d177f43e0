"""Fetch the MNIST family into ``data/``: ``python -m datamodules``."""

import sys

from datamodules.sources import SHA256, DataUnavailableError, fetch

for name in SHA256:
    try:
        print(f"{name}: {fetch(name, 'data')}")
    except DataUnavailableError as error:
        sys.exit(f"datamodules: error: {error}")
