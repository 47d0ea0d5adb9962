"""Networks from an image to boxes."""
