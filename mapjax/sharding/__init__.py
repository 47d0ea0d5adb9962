"""Which device holds which part: meshes, placements, and functions that run on each part."""
