"""Web pages that need no network."""
