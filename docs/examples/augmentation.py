"""An augmentation of your own: vignetting, as of a lens that darkens the corners, after those that `crops` has.

--config.transform="{'name': 'examples.augmentation', 'vignette': 0.5, 'augment': {'rotate': 12.0}}"
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapjax.data.transforms import augment as augmentation
from mapjax.data.transforms import crops

OPTIONS = {"augment": augmentation.WHOLE}  # keys of `augment` for --keys and for what is misspelt


def make(*, size: tuple[int, int], vignette: float = 0.5, augment: Mapping[str, Any] | None = None, fit: str = "crop"):
    """Make `transform(record, rng) -> example`.

    Args:
      size: height, width of the examples, given by the program.
      vignette: largest loss of light in the corners, 0 to 1.
      augment: the keys of `crops`; None, given by the program, where images are evaluated.
      fit: as of `crops`.
    """
    cut = crops.make(size=size, augment=augment, fit=fit)
    down, across = (np.linspace(-1, 1, side) ** 2 for side in size)
    distance = (down[:, None] + across[None, :])[..., None] / 2  # 0 in the centre, 1 in the corners

    def transform(record, rng: np.random.Generator):
        example = cut(record, rng)
        if augment is not None:  # every draw comes from rng, so that resuming is exact
            light = 1 - vignette * rng.random() * distance
            example["image"] = np.rint(example["image"] * light).astype(np.uint8)
        return example

    return transform
