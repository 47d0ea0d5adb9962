"""What is read from scikit-learn's files is what the library gives."""

import subprocess
import sys

import numpy as np
from sklearn import datasets

from mapjax.data import bundled


def test_digits():
    wanted = datasets.load_digits()
    images, classes = bundled.digits()
    np.testing.assert_array_equal(images, wanted.images)  # pyright: ignore
    np.testing.assert_array_equal(classes, wanted.target)  # pyright: ignore


def test_photos():
    for found, wanted in zip(bundled.photos(), datasets.load_sample_images().images, strict=True):  # pyright: ignore
        np.testing.assert_array_equal(found, wanted)


def test_the_library_is_not_imported():
    program = "import sys; from mapjax.data import bundled; bundled.digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
