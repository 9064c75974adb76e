"""Pages of a run, of several runs, and of a dataset."""
