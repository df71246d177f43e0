"""What runs many trainings: search spaces, samplers, the queue of trials, reports."""
