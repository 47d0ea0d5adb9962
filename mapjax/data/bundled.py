"""The digits and photos that scikit-learn ships, from its files: to import the library would take a second."""

import importlib.util
import pathlib

import numpy as np
import PIL.Image
from jaxtyping import Float64, Int64, UInt8


def digits() -> tuple[Float64[np.ndarray, "1797 8 8"], Int64[np.ndarray, "1797"]]:
    """Give the handwritten digits of `sklearn.datasets.load_digits`: ink from 0 to 16, and classes."""
    rows = np.loadtxt(_folder() / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def photos() -> tuple[UInt8[np.ndarray, "427 640 3"], ...]:
    """Give the photos of `sklearn.datasets.load_sample_images`, RGB: a temple in China and a flower."""
    return tuple(np.asarray(PIL.Image.open(_folder() / "images" / name)) for name in ("china.jpg", "flower.jpg"))


def _folder() -> pathlib.Path:
    found = importlib.util.find_spec("sklearn")  # of a package without a dot: nothing is imported
    assert found is not None and found.submodule_search_locations, "a requirement of mapjax"
    return pathlib.Path(found.submodule_search_locations[0]) / "datasets"
