"""Comparisons over seeds, and advice that they confirm."""
