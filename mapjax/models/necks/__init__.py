"""Maps of one backbone, combined."""
