"""Complete parts of your own: network, metric, data format, augmentation, task, and the experiment with them."""
