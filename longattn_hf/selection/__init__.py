"""From raw scores to kept windows; no torch."""
