"""Networks split over devices: rules of tensor parallelism, and pipelines of equal blocks."""
