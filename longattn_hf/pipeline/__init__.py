"""Documents to a finished folder, resumable, on any number of processes."""
