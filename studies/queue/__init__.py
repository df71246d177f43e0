"""The queue of trials and its workers."""
