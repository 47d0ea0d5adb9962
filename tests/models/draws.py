"""What every layer that draws at random must do."""

import numpy as np


def assert_draws_in_training_only(run):
    """`run(seed, train)` depends on the seed in training, and on nothing else; without training on none."""
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert np.abs(run(0, True) / run(1, True) - 1).max() > 0.1
    np.testing.assert_array_equal(run(0, False), run(1, False))
