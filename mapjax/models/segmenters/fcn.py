"""Fully convolutional networks: on VGG-16 (Long et al. 2015, arXiv 1411.4038), and on a dilated ResNet as torchvision
has them.

Unlike the paper's, that on VGG pads fc6 rather than the image, and learns no upsampling: maps grow by bilinear
interpolation, to which the paper's last upsampling is fixed and from which its others start.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.compose import make_backbone, on_backbone
from mapjax.models.layers import Conv, Dropout, Norm, torch_default
from mapjax.ops.resize import bilinear
from mapjax.task import Model

STRIDE = 32  # of VGG's last map
HEADS = ("^classifier/", "^aux_classifier/")  # on a ResNet
VARIANTS = {"32s": (), "16s": ("pool4",), "8s": ("pool4", "pool3")}  # maps whose scores are added, coarsest first


class Scores(nn.Module):
    """Features of a VGG → scores (b i j classes) of "fc7", and of finer maps that begin at zero and are added."""

    classes: int
    finer: tuple[str, ...]
    dropout: float

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool):
        options = {"kernel": 1, "bias": True, "dtype": jnp.float32}
        x = Dropout(self.dropout)(features["fc7"], train)
        x = Conv(self.classes, init=torch_default, name="fc7", **options)(x)
        for name in self.finer:
            score = Conv(self.classes, init=nn.initializers.zeros, name=name, **options)(features[name])
            x = bilinear(x, (score.shape[1], score.shape[2])) + score
        return x


class ScoresOfVGG(nn.Module):
    """Features of a VGG → "map_logits" of its "head"."""

    classes: int
    finer: tuple[str, ...]
    dropout: float

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        return {"map_logits": Scores(self.classes, self.finer, self.dropout, name="head")(features, train)}


class FCNHead(nn.Module):
    """Convolution 3×3 "0" to a quarter of the channels, normalization "1", ReLU, dropout, convolution 1×1 "4"."""

    classes: int
    norm: str = "batch"
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(x.shape[-1] // 4, init=torch_default, dtype=self.dtype, name="0")(x)
        x = Dropout(self.dropout)(nn.relu(Norm(self.norm, dtype=self.dtype, name="1")(x, train)), train)
        return Conv(self.classes, 1, bias=True, init=torch_default, dtype=jnp.float32, name="4")(x)


class Heads(nn.Module):
    """Features → "map_logits" of the map `main`, by "classifier", and "aux_map_logits" of `aux`, by "aux_classifier".

    head: arguments of the classifier, of the class `kind`; the auxiliary one is an FCNHead.
    """

    kind: Any
    main: str
    aux: str | None
    classes: int
    norm: str
    head: Mapping[str, Any]
    dtype: Any

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        options = {"norm": self.norm, "dtype": self.dtype}
        classifier = self.kind(self.classes, name="classifier", **self.head, **options)
        outputs = {"map_logits": classifier(features[self.main], train)}
        if self.aux is not None:
            auxiliary = FCNHead(self.classes, name="aux_classifier", **options)
            outputs["aux_map_logits"] = auxiliary(features[self.aux], train)
        return outputs


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "vgg", "depth": 16},
    variant: str | None = None,
    aux: bool = False,
    norm: str = "batch",
    dropout: float | None = None,
    dtype: str = "float32",
) -> Model:
    """Make an FCN: images (b h w 3, normalised) → "map_logits" (b i j classes, float32), and the backbone's maps.

    On VGG the map is as large as the image, whose sides are padded to multiples of 32; on a ResNet it has the stride
    of its output, 8.

    Args:
      backbone: a node of the config that names "vgg" or "resnet"; published weights of it fit in. A ResNet has
        output_stride 8 unless the node has another.
      variant: on VGG, "32s", "16s" or "8s" (None): the stride of the finest map whose scores count.
      aux: on a ResNet, give "aux_map_logits" too, of "layer3".
      norm: of the heads on a ResNet.
      dropout: before the scores (and after fc6 of a VGG); None is 0.5 on VGG, 0.1 on a ResNet.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: another backbone, an unknown variant, or what only the other backbone has.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import fcn
      >>> model = fcn.make(backbone={"name": "vgg", "depth": 11}, classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 32, 32, 3)
    """
    name = backbone.get("name")
    if name == "resnet":
        if variant is not None:
            raise UserError(f"fcn: variant={variant!r} is of the backbone 'vgg'; a resnet has its output_stride.")
        body = make_backbone("fcn", {"output_stride": 8, **backbone}, dtype)
        head = {"dropout": 0.1 if dropout is None else dropout}
        aux_map = "layer3" if aux else None
        heads = Heads(FCNHead, "layer4", aux_map, classes, norm, head, jnp.dtype(dtype))
        return on_backbone(body, heads, heads=HEADS)
    if name != "vgg":
        raise UserError(f"fcn stands on the backbone 'vgg' or 'resnet', not on {name!r}.")
    if aux:
        raise UserError("fcn: aux is of the backbone 'resnet'; leave it out with 'vgg'.")
    variant = variant or "8s"
    if variant not in VARIANTS:
        raise UserError(f"fcn has no variant={variant!r}.{near(variant, VARIANTS)}")
    dropout = 0.5 if dropout is None else dropout
    body = make_backbone("fcn", {"dropout": dropout, **backbone, "convolutional": True}, dtype)
    return _over_the_image(on_backbone(body, ScoresOfVGG(classes, VARIANTS[variant], dropout), heads=("^head/",)))


def _over_the_image(model: Model) -> Model:
    """Let the map lie over the whole image: VGG's pools leave out what is no multiple of 32."""

    def padded(images):
        below, right = (-side % STRIDE for side in images.shape[1:3])
        return jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))

    def init(key, images):
        return model.init(key, padded(images))

    def apply(variables, images, *, train=False, key=None):
        rows, columns = images.shape[1:3]
        seen = padded(images)
        outputs, stats = model.apply(variables, seen, train=train, key=key)
        logits = bilinear(outputs["map_logits"], seen.shape[1:3])[:, :rows, :columns]
        return {**outputs, "map_logits": logits}, stats

    return model._replace(init=init, apply=apply)
