"""Photo → faces → pixels: decode, detect (and its models), crop."""
