"""Data sets as they are found: a file for each format, whose `make` opens a split."""
