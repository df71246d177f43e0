"""What curves mean and what to try: reads numbers, knows no Trainer."""
