"""The programs of the command line that are no stage of their own."""
