"""Windows to scores, as callables for `datasets.map`."""
