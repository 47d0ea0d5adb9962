"""Metrics: measure, merge, summarize."""
