"""The dataset on disk: layout, write, index, verify."""
