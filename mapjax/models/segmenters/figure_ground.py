"""Figure and ground: first which pixels are no background, then what each is, from the mean of the figure around it.

A stroke looks much the same in every digit, and most of what is around it is background. A decoder like U-Net's draws
the figure from the finer maps; in windows around each place the features of the deepest are averaged, weighted by
how likely each place is figure (as object regions weight them in Yuan et al. 2020, arXiv 1909.11065, there over the
whole image), and a linear classifier reads the mean. A small window holds a small thing, a large one a large thing;
their scores are added. For things on a background; class 0 is the background.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.errors import UserError, near
from mapjax.models.compose import by_stride, make_backbone, on_backbone
from mapjax.models.layers import Conv, torch_default
from mapjax.models.segmenters.unet import DECODER, NORMS, Decoder, cut_to_image
from mapjax.ops.resize import bilinear
from mapjax.task import Model


class FigureGround(nn.Module):
    """Features by name → "map_logits" (b i j classes, float32), log-probabilities; in training "aux_map_logits" too.

    The auxiliary ones are the same numbers, but train only what tells the things apart, not the figure: their share of
    a loss over all pixels is small where the figure is.

    figure: draws the score of being figure (b i j 1).
    deep: the map that is averaged.
    stride: of that.
    windows: their sides in its places.
    """

    figure: Decoder
    deep: str
    stride: int
    windows: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        figure = self.figure(features, train)["map_logits"]
        likely = nn.sigmoid(jax.lax.stop_gradient(figure))
        deep = features[self.deep].astype(jnp.float32)
        means = [mean_around(deep, likely, self.stride, window) for window in self.windows]
        classify = Conv(self.classes - 1, 1, bias=True, init=torch_default, dtype=jnp.float32, name="things")
        things = bilinear(classify(jnp.concatenate(means, -1)), figure.shape[1:3])
        outputs = {"map_logits": _joined(figure, things)}
        if train:
            outputs["aux_map_logits"] = _joined(jax.lax.stop_gradient(figure), things)
        return outputs


def mean_around(
    features: Float[Array, "b i j d"], weights: Float[Array, "b h w 1"], stride: int, window: int
) -> Float[Array, "b i j d"]:
    """Weighted mean of the features in a window around each place, by the weights of the pixels under them.

    Where a window holds no weight the mean is 0.

    Args:
      stride: pixels a side under each place.
      window: side in places, odd.
    """
    rows, columns = features.shape[1:3]
    shares = nn.avg_pool(weights, (stride,) * 2, (stride,) * 2, padding="SAME")[:, :rows, :columns]
    sides = (window, window)
    total = nn.avg_pool(shares * features, sides, padding="SAME")
    return total / (nn.avg_pool(shares, sides, padding="SAME") + 1e-3)


def _joined(figure, things):
    """Log-probabilities of the background and of each thing."""
    return jnp.concatenate([nn.log_sigmoid(-figure), nn.log_sigmoid(figure) + nn.log_softmax(things)], -1)


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 18},
    stride: int = 8,
    windows: Sequence[int] = (1, 3, 7),
    width: int = 12,
    norm: str = "batch",
    dtype: str = "float32",
) -> Model:
    """Make a figure–ground network: images (b h w 3, normalised, of any size) → "map_logits" (b i j classes, float32).

    They are log-probabilities, as large as the image; the maps of the backbone are given by name too. Train it with
    `task.auxiliary` as large as there are times more pixels than things' (FigureGround says why), or somewhat larger.

    Args:
      classes: the background, which is the first, and one or more things.
      backbone: a node of the config that names a network with maps of several strides; published weights of it fit in.
      stride: of the map that is averaged in windows.
      windows: their sides in places of that map, odd numbers; window · stride pixels are about as large as a small or a
        large thing.
      width: channels of the figure's decoder at a map of stride 1, twice as many at stride 2, and so on.
      norm: "batch", "group" or "none", of that decoder.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: fewer than two classes, no or even windows, an unknown norm, or a backbone without a map of that stride
        and a finer one.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import figure_ground
      >>> model = figure_ground.make(windows=(1, 5), classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 32, 32, 3)
    """
    if classes < 2:
        raise UserError("figure_ground: the first class is the background; it needs one more.")
    if not windows or any(window < 1 or window % 2 == 0 for window in windows):
        raise UserError(f"figure_ground: windows={tuple(windows)} must be odd numbers, so that each has a middle.")
    if norm not in NORMS:
        raise UserError(f"figure_ground has no norm={norm!r}.{near(norm, NORMS)}")
    encoder = make_backbone("figure_ground", backbone, dtype)
    found = by_stride(encoder.levels)
    drawn = {step: name for step, name in found.items() if step <= stride}
    if stride not in found or len(drawn) < 2:
        raise UserError(
            f"figure_ground: stride={stride} must be that of a map of the backbone {backbone['name']!r}, but of the "
            f"finest; its strides are {', '.join(map(str, found))}."
        )
    *finer, _ = drawn
    widths, names = tuple(width * step for step in finer), tuple(drawn.values())
    options = {"supervised": False, "remat": False, "dtype": jnp.dtype(dtype)}
    figure = Decoder(names, widths, 1, min(drawn), norm, 0.0, **options)
    head = FigureGround(figure, found[stride], stride, tuple(windows), classes)
    return cut_to_image(on_backbone(encoder, head, heads=("^things/",), rules=DECODER))
