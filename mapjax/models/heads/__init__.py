"""What a detector asks of its maps: where objects may be, and what a box holds."""
