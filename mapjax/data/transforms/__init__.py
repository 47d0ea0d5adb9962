"""From records to examples of one shape."""
