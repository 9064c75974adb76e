"""Engines make chunks: a pure function from photographs to a shard and rows, wherever its workers run."""
