"""Names of tensors in transformers' files → ours, for the networks whose authors publish there.

Ours say the same with fewer words. Published files have the names of transformers before its version 5; what later ones
write (`o_proj`, `mlp.fc1`) is read as well. Some tensors stand there twice, as heads that two modules share.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Tensors = Mapping[str, np.ndarray]
LAYERS = (  # of both networks' transformers
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layers\.(\d+)\.(?:mlp\.)?(fc1|fc2|final_layer_norm)\.", r".layers.\1.mlp.\2."),
    (r"^((?:en|de)coder)\.layers\.(\d+)\.", r"\1.\2."),
)
FAMILIES: dict[str, Sequence[tuple[str, str]]] = {  # family → what of a name becomes what, in order
    "detr": (
        (r"^model\.", ""),
        (r"^backbone\.(?:conv_encoder\.)?model\.", "backbone."),
        *LAYERS,
        (r"^decoder\.layernorm\.", "decoder.norm."),
        (r"^query_position_embeddings\.weight$", "query_embed"),
        (r"^class_labels_classifier\.", "class_embed."),
        (r"^bbox_predictor\.layers\.", "bbox_embed."),
    ),
    "rt_detr_v2": (
        (r".*\.n_points_scale$", ""),  # a constant
        (r"^model\.", ""),
        (r"^backbone\.model\.embedder\.embedder\.", "backbone.conv1."),
        *((rf"^backbone\.model\.encoder\.stages\.{i}\.layers\.", f"backbone.layer{i + 1}.") for i in range(4)),
        *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
        *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
        (r"\.shortcut\.(?:1\.)?(?=[cn])", ".downsample."),
        (r"\.(?:convolution|conv)\.", ".0."),
        (r"\.(?:normalization|norm)\.", ".1."),
        *LAYERS,
        (r"^encoder\.(?:encoder|aifi)\.0\.layers\.(\d+)\.", r"encoder.layer\1."),
        (r"^encoder_input_proj\.(\d+)\.", r"encoder.input_proj\1."),
        (r"^encoder\.(fpn|pan|lateral|downsample)_\w+\.(\d+)\.", r"encoder.\1\2."),
        (r"\.bottlenecks\.(\d+)\.", r".bottleneck\1."),
        (r"^(?:decoder\.)?(class|bbox)_embed\.(\d+)\.(?:layers\.)?", r"decoder.\1_embed\2."),
        (r"^(decoder\.query_pos_head|enc_bbox_head)\.layers\.", r"\1."),
        (r"^decoder_input_proj\.(\d+)\.", r"decoder_input_proj\1."),
        (r"^enc_output\.0\.", "enc_output."),
        (r"^enc_output\.1\.", "enc_output_norm."),
        (r"^denoising_class_embed\.weight$", "denoising_embed"),
    ),
}
MARKS = {  # a tensor that the family has, and no other
    "detr": "bbox_predictor.layers.0.weight",
    "rt_detr_v2": "model.decoder.layers.0.encoder_attn.sampling_offsets.weight",
}


class Published(NamedTuple):
    """A detector of COCO as its authors run it: nodes of a config, and the size of its images.

    channels: of its answers, where they are COCO's identifiers from `first` on; None: the 80 classes.
    """

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    transform: Mapping[str, Any]
    image_size: tuple[int, int]
    channels: int | None = None
    first: int = 0


def _detr(depth: int) -> Published:
    """Carion et al. 2020: the shorter side 800, the longer at most 1333; channel k is category k, 0 is none."""
    transform = {"name": "boxes", "max_boxes": 100, "fit": "shorter", "shorter": 800, "longest": 1333, "multiple": 1}
    backbone = {"name": "resnet", "depth": depth, "norm": "frozen"}
    model, task = {"name": "detr", "backbone": backbone}, {"name": "set_prediction"}
    return Published(model, task, {**transform, "smooth": True}, (800, 1333), 91)


def _rt_detr(depth: int, decoder: int, **sizes: Any) -> Published:
    """Lv et al. 2024: images stretched to 640×640, as shares of 0 to 1."""
    backbone = {"name": "resnet", "depth": depth, "stem": "deep", "shortcut": "pool", "norm": "frozen"}
    model = {"name": "rt_detr", "backbone": backbone, "decoder": decoder, **sizes}
    task = {"name": "set_prediction", "scores": "varifocal", "detections": 300}
    transform = {"name": "boxes", "max_boxes": 100, "fit": "stretch", "smooth": True}
    return Published(model, task | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, transform, (640, 640))


RECIPES = {
    "facebook/detr-resnet-50": _detr(50),
    "facebook/detr-resnet-101": _detr(101),
    "PekingU/rtdetr_v2_r18vd": _rt_detr(18, 3, expansion=0.5),
    "PekingU/rtdetr_v2_r34vd": _rt_detr(34, 4, expansion=0.5),
    "PekingU/rtdetr_v2_r50vd": _rt_detr(50, 6),
    "PekingU/rtdetr_v2_r101vd": _rt_detr(101, 6, encoder_width=384, encoder_hidden=2048),
}


def renamings(tensors: Tensors) -> Iterator[dict[str, np.ndarray]]:
    """Give the tensors under our names, if they are of a family that is known here."""
    for family, mark in MARKS.items():
        if mark in tensors:
            yield renamed(tensors, family)


def renamed(tensors: Tensors, family: str) -> dict[str, np.ndarray]:
    """Rename the tensors of a family of FAMILIES to our names; what is computed from others is left out."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in FAMILIES[family]:
            name = re.sub(pattern, new, name)
        if name:
            found[name] = tensor
    return found
