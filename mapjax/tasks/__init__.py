"""Tasks: what a network is trained and judged for."""
