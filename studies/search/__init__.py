"""Hyper-parameter search."""

from studies.search.reinforce import ReinforceSampler

__all__ = ["ReinforceSampler"]
