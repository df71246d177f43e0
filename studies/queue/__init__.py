"""The queue of trials, and who works on it."""
