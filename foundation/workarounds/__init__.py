"""Workarounds for the faults of other projects, each with a test that says when it can go."""
