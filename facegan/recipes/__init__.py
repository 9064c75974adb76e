"""Whole experiments as TOML files: what they say, which stages they have, and running those that are out of date."""
