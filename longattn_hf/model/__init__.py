"""From a model's name to its first layer's queries and keys."""
