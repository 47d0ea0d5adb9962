"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), on the device inside the step.

The partner of an image is its neighbour in the batch, which the pipeline has already shuffled. So a batch that is
split over devices exchanges one row with the neighbouring device, where a permutation would gather it whole.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


def mix(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    *,
    mixup: float | int = 0.0,
    cutmix: float | int = 0.0,
    probability: float | int = 1.0,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """Mix each image and its targets with those of its neighbour, the share λ ~ Beta(α, α) drawn once a batch.

    CutMix replaces a rectangle, clipped at the frame; targets are mixed by the area that is really replaced.

    Args:
      targets: the share of each class in each image.
      mixup, cutmix: the α of each; 0 is never. If both are positive, one of the two is drawn for each batch.
      probability: that a batch is mixed at all.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, targets
    for_choice, for_chance, for_share, for_box = jax.random.split(key, 4)
    cut = jax.random.bernoulli(for_choice, (cutmix > 0) / ((mixup > 0) + (cutmix > 0)))
    alpha = jnp.where(cut, float(cutmix), float(mixup))
    share = jax.random.beta(for_share, alpha, alpha)
    height, width = images.shape[1:3]
    box = cut_box(for_box, share, (height, width))
    mixed = jax.random.bernoulli(for_chance, probability)
    kept = jnp.where(mixed, jnp.where(cut, ~box, share), 1.0)  # of each pixel
    share = jnp.where(mixed, jnp.where(cut, 1 - box.mean(), share), 1.0)
    return _blend(images, kept[None, :, :, None]), _blend(targets, share)


def cut_box(key: PRNGKeyArray, share: Float[Array, ""], frame: tuple[int, int]) -> Bool[Array, "h w"]:
    """Draw the rectangle of CutMix: 1 - `share` of the area of height, width, about any pixel, clipped at the frame."""
    spans = []
    for for_side, side in zip(jax.random.split(key), frame):
        half = side * jnp.sqrt(1 - share) / 2
        centre = jax.random.randint(for_side, (), 0, side)
        at = jnp.arange(side)
        spans.append((at >= jnp.floor(centre - half)) & (at < jnp.floor(centre + half)))
    return spans[0][:, None] & spans[1]


def _blend(rows: Float[Array, "b *s"], kept: Float[Array, "..."]) -> Float[Array, "b *s"]:
    kept = kept.astype(rows.dtype)
    return rows * kept + jnp.roll(rows, 1, axis=0) * (1 - kept)
