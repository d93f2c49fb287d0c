"""A build's facts, and what is rendered from them."""
