"""Photographs → dataset: request, plan, chunk (the pure unit of work), commit, finish; sources and engines."""
