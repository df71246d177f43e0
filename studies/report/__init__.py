"""What report pages and figures are made of."""
