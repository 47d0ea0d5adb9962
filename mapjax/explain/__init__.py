"""What a network has learned: its features, and what simple methods make of them."""
