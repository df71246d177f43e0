"""Augmentation and mixing of training batches."""
