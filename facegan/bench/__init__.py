"""Our speed beside the same job by hand, measured in the same run on the same machine."""
