"""Pages of a run, and of several runs."""
