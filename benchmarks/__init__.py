"""What is measured against what: each module is one command, ``python -m benchmarks.<name>``."""
