"""RT-DETRv2 (Zhao et al. 2023; Lv et al. 2024): a hybrid encoder, its best places as queries, a deformable decoder.

Names of parameters are those of the published files in transformers' form, by `mapjax.weights.huggingface`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mapjax.errors import UserError, near
from mapjax.models.attention import EPSILON, MLP, RULES
from mapjax.models.compose import by_stride, heads_below, make_backbone
from mapjax.models.heads.query_decoder import Decoder, class_head, inverse_sigmoid, zeros
from mapjax.models.layers import ConvNorm, Dense, LayerNorm, module_of, run, variables_of
from mapjax.models.necks.body import centred
from mapjax.models.necks.hybrid_encoder import HybridEncoder
from mapjax.sharding import mesh as shard
from mapjax.sharding import tensor
from mapjax.task import Model

HEADS = (r"^decoder/class_embed\d+/", "^enc_score_head/", "^denoising_embed$")
STRIDES = (8, 16, 32)
FORMS = ("auto", "gather", "dense")
SIDE = 0.05  # of the anchors of the finest map, as a share of the image
OUTSIDE = 1e4  # logit of an anchor that is too near the border: a share of 1
MARGIN = 0.01


class RTDETR(nn.Module):
    """Images → scores and boxes of queries; `denoising` has more queries, of the truth with noise.

    reads: names of the backbone's maps, strides of which are those of `strides`.
    """

    backbone: nn.Module
    encoder: nn.Module
    reads: tuple[str, ...]
    strides: tuple[int, ...]
    classes: int
    queries: int
    width: int
    depth: int
    layer: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, denoising, train: bool):
        features = self.backbone(images, train)
        grids = [[-(-side // stride) for side in images.shape[1:3]] for stride in self.strides]
        maps = self.encoder([centred(features[name], grid) for name, grid in zip(self.reads, grids)], train)
        features = {**features, **dict(zip(names_of(self.strides), maps))}
        maps = [
            ConvNorm(self.width, 1, dtype=self.dtype, name=f"decoder_input_proj{i}")(x, train)
            for i, x in enumerate(maps)
        ]
        x, boxes, first_logits = self._select(maps)
        table = self.param("denoising_embed", _embedding, (self.classes + 1, self.width), jnp.float32)
        decoder, mask, extra = Decoder(self.classes, self.depth, self.layer, name="decoder"), None, 0
        given, first_boxes = jax.lax.stop_gradient((x, boxes)), boxes
        if denoising is not None:
            more = table.astype(self.dtype)[denoising["classes"]]
            extra, mask = more.shape[1], sight(denoising["group"], self.queries)
            noisy = nn.sigmoid(inverse_sigmoid(denoising["boxes"]))
            given = jnp.concatenate([more, given[0]], 1), jnp.concatenate([noisy, given[1]], 1)
        logits, boxes = decoder(*given, maps, mask, train)
        outputs = {
            "features": features,
            "query_logits": logits[:, -1, extra:],
            "query_boxes": boxes[:, -1, extra:],
            "aux_query_logits": jnp.concatenate([first_logits[:, None], logits[:, :-1, extra:]], 1),
            "aux_query_boxes": jnp.concatenate([first_boxes[:, None], boxes[:, :-1, extra:]], 1),
        }
        if denoising is not None:
            outputs |= {"denoising_logits": logits[:, :, :extra], "denoising_boxes": boxes[:, :, :extra]}
        return outputs

    def _select(self, maps: Sequence[Any]):
        """The places of the maps with the best scores: their features, boxes and scores (b q _)."""
        anchors, inside = anchors_of([one.shape[1:3] for one in maps])
        if len(anchors) < self.queries:
            raise UserError(
                f"rt_detr: model.queries={self.queries} are more than the {len(anchors)} places that the maps of such "
                "an image have; take fewer, or enlarge image_size."
            )
        tokens = jnp.concatenate([one.reshape(len(one), -1, self.width) for one in maps], 1)
        tokens = Dense(self.width, dtype=self.dtype, name="enc_output")(jnp.where(inside[:, None], tokens, 0))
        tokens = LayerNorm(EPSILON, self.dtype, name="enc_output_norm")(tokens)
        logits = class_head(self.classes, "enc_score_head", self.dtype)(tokens).astype(jnp.float32)
        head = MLP((self.width, self.width, 4), last=zeros, dtype=self.dtype, name="enc_bbox_head")

        def best(scores, *values):
            _, index = jax.lax.top_k(jax.lax.stop_gradient(scores.max(-1)), self.queries)
            return tuple(jnp.take_along_axis(one, index[..., None], 1) for one in (scores, *values))

        every = jnp.broadcast_to(jnp.asarray(anchors), (len(tokens), *anchors.shape))
        logits, tokens, chosen = shard.per_example(best)(logits, tokens, every)
        # The head is a function of each place: it is asked for those that were chosen only.
        return tokens, nn.sigmoid(head(tokens).astype(jnp.float32) + chosen), logits


def _embedding(key, shape, dtype):
    return nn.initializers.xavier_uniform()(key, shape, dtype).at[-1].set(0)


def names_of(strides: Sequence[int]) -> tuple[str, ...]:
    """Names of maps by their strides: "p3" has stride 2³."""
    return tuple(f"p{stride.bit_length() - 1}" for stride in strides)


def anchors_of(
    grids: Sequence[Sequence[int]],
) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """A box for each place of the maps, finest first, twice as large in each: logits of shares, and which are inside.

    Args:
      grids: rows and columns of the maps.
    """
    found = []
    for level, (rows, columns) in enumerate(grids):
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        side = np.full_like(x, SIDE * 2**level)
        found.append(np.stack([x, y, side, side], -1).reshape(-1, 4))
    anchors = np.concatenate(found)
    inside = np.all((anchors > MARGIN) & (anchors < 1 - MARGIN), axis=-1)
    shares = np.where(inside[:, None], anchors, 0.5)
    return np.where(inside[:, None], np.log(shares / (1 - shares)), OUTSIDE).astype(np.float32), inside


def sight(group, queries: int):
    """Which queries (b 1 k+q k+q) one may see: its own group and the network's, which see only each other.

    Args:
      group (b k): of the queries of truth; −1 for none, which nobody sees.
    """
    count = group.shape[1]
    same = (group[:, :, None] == group[:, None]) & (group >= 0)[:, None]
    top = jnp.concatenate([same, jnp.ones((len(group), count, queries), bool)], 2)
    own = jnp.arange(count + queries) >= count
    below = jnp.broadcast_to(own, (len(group), queries, count + queries))
    return jnp.concatenate([top, below], 1)[:, None]


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {
        "name": "resnet",
        "depth": 50,
        "stem": "deep",
        "shortcut": "pool",
        "norm": "frozen",
    },
    strides: Sequence[int] = STRIDES,
    queries: int = 300,
    width: int = 256,
    heads: int = 8,
    encoder: int = 1,
    encoder_width: int = 256,
    encoder_hidden: int = 1024,
    expansion: float = 1.0,
    decoder: int = 6,
    hidden: int = 1024,
    points: int = 4,
    dropout: float = 0.0,
    sampling: str = "auto",
    dtype: str = "float32",
) -> Model:
    """Make an RT-DETRv2; the defaults are those of the published R50.

    Of images (b h w 3, normalised, with sides that the strides divide) it gives "query_logits" (b q c), "query_boxes"
    (b q 4; centre x,y, width and height as shares of the image) and, as "aux_query_logits" (b l q c) and
    "aux_query_boxes", those of the encoder and of the decoder's layers before the last. Its calls:

        queries(variables, images, extent, *, denoising, train, key) -> the same and stats; `extent` is not looked at.
            With `denoising`, as tasks/detection/denoising.py makes it, also "denoising_logits" (b l k c), "…_boxes"
        frame(shape of the images, extent) -> the box (b 4) in pixels that boxes are shares of: the image with padding

    Args:
      classes: without background.
      backbone: a node of the config that names a network with maps of these strides.
      strides: of the maps that are read, finest first, each twice the one before.
      queries: the most boxes that an image may be given.
      width: of the decoder, a multiple of `heads`.
      heads: of attention.
      encoder: layers of attention over the coarsest map.
      encoder_width: channels of the encoder, a multiple of 4 and of `heads`.
      encoder_hidden: width of its feed-forward layers.
      expansion: of the channels within its blocks.
      decoder: layers; fewer may be run than were trained.
      hidden: width of their feed-forward layers.
      points: places that a head reads in each map.
      dropout: rate, in training.
      sampling: the form of ops/deformable.py: "auto", "gather" or "dense".
      dtype: of the arithmetic; parameters, scores and boxes are float32.

    Raises:
      UserError: a backbone without such maps, or options out of range.

    Example:
      >>> from mapjax.models.detectors import rt_detr
      >>> small = {"name": "resnet", "depth": 18, "stem": "deep", "shortcut": "pool"}
      >>> rt_detr.make(classes=80, backbone=small, expansion=0.5, decoder=3).levels
      {'p3': 8, 'p4': 16, 'p5': 32}
    """
    least = {"queries": queries, "decoder": decoder, "heads": heads, "points": points, "hidden": hidden}
    for name, value in (least | {"encoder_hidden": encoder_hidden}).items():
        if value < 1:
            raise UserError(f"rt_detr: {name}={value} must be 1 or more.")
    if width % heads or encoder_width % heads or encoder_width % 4 or encoder < 0:
        raise UserError(
            f"rt_detr: width={width} and encoder_width={encoder_width} must be multiples of heads={heads}, the second "
            f"also of 4, and encoder={encoder} 0 or more."
        )
    if sampling not in FORMS:
        raise UserError(f"rt_detr has no sampling={sampling!r}.{near(sampling, FORMS)}")
    node, kind = {"name": "resnet", **backbone}, jnp.dtype(dtype)
    body = make_backbone("rt_detr", node, dtype)
    last, strides = by_stride(body.levels), tuple(strides)
    if not strides or any(stride not in last for stride in strides) or strides != _doubling(strides):
        known = ", ".join(map(str, last))
        raise UserError(
            f"rt_detr: strides={strides} must double from one to the next and be of maps of the backbone "
            f"{node['name']!r}, which has {known or 'none'}."
        )
    layer = {"heads": heads, "hidden": hidden, "points": points, "form": sampling, "dropout": dropout, "dtype": kind}
    neck = HybridEncoder(encoder_width, encoder, heads, encoder_hidden, expansion, dropout, kind)
    reads = tuple(last[stride] for stride in strides)
    module = RTDETR(module_of(body), neck, reads, strides, classes, queries, width, decoder, layer, kind)
    queried = partial(_run, module)

    def apply(variables, images, *, train=False, key=None):
        return queried(variables, images, None, train=train, key=key)

    return Model(
        jax.jit(partial(_init, module)),
        apply,
        {"queries": queried, "frame": _whole},
        dict(zip(names_of(strides), strides)),
        heads=(*heads_below("backbone", body), *HEADS),
        rules=(*tensor.below("backbone", body.rules), *tensor.below("(en|de)coder", RULES)),
    )


def _doubling(strides: Sequence[int]) -> tuple[int, ...]:
    return tuple(strides[0] * 2**i for i in range(len(strides)))


def _whole(shape: Sequence[int], extent) -> Any:
    del extent
    return jnp.tile(jnp.array([0.0, 0.0, shape[2], shape[1]]), (shape[0], 1))


def _init(module: RTDETR, key, images):
    return variables_of(module, key, images, None, False)


def _run(module: RTDETR, variables, images, extent, *, denoising=None, train: bool = False, key=None):
    del extent
    return run(module, "__call__", variables, images, denoising, train=train, key=key)
