"""What a run is made of, as values: its schema, how it is loaded, and the parts it names."""
