"""Where a dataset is made, on this machine or at a URL: its folder, its lock, what each finished chunk leaves there."""
