"""The meaning of curves, and suggestions: reads numbers, knows no Trainer."""
