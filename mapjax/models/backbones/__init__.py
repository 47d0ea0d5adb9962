"""Networks from an image to features and logits."""
