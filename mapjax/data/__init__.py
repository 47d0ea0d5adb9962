"""Data: sources → transforms → pipeline."""
