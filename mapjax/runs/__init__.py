"""A run from its config: what it is made of, how it is trained, scored and asked."""
