"""Metrics of samples against real faces."""
