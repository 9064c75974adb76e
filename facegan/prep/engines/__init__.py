"""Engines run chunks: a chunk of photographs → a shard and its rows, a pure function, wherever its workers are."""
