"""R-CNN, Fast R-CNN, Faster R-CNN: what each of the three changed, in accuracy, training and time an image.

    mapjax prepare --data voc:DIR --splits trainval,test --proposals fast
    mapjax ablate --config ablate_rcnn --data voc:DIR
        bccd (default): blood cells, as detect.py trains them. The baseline is its Faster R-CNN, with a pyramid.
    mapjax prepare --data "scenes:train_length=2000,val_length=300" --proposals fast --out data/scenes_proposals
    mapjax ablate --config ablate_rcnn:scenes
        scenes: the embedded scenes of detect.py, of which only so many have proposals.

`mapjax train` and `mapjax bench --evaluation` take one of them by name: ablate_rcnn:bccd_rcnn, bccd_fast_rcnn,
bccd_outside (the network of Faster R-CNN on proposals from outside), and the same with scenes. docs/detection.md says
more. In a checkout, `python launch/ablate.py --config experiments/ablate_rcnn.py` is the same.
"""

from typing import Any

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

COUNT = 1000  # proposals of an image that a network is given
PLACES = {"bccd": "beside", "scenes": "data/scenes_proposals"}
SIDES = {"bccd": 64, "scenes": 48}  # pixels of a crop


def base(data: str) -> dict[str, Any]:
    """Give detect.py's Faster R-CNN, for data that is as large as proposals were found for."""
    recipe = configs.recipe(f"detect:{data}")
    if data == "scenes":
        recipe["data"] = {"name": "scenes", "train_length": 2000, "val_length": 300}
    return recipe


def outside(data: str) -> dict[str, Any]:
    """Give what changes where proposals come from outside, by dotted keys."""
    return {"proposals": PLACES[data], "transform.proposals": COUNT, "task.proposals": "data"}


def changes(data: str) -> dict[str, dict[str, Any]]:
    """Give what each network changes, by dotted keys."""
    backbone = base(data)["model"]["backbone"]
    fast = {"name": "fast_rcnn", "backbone": backbone, "representation": base(data)["model"]["representation"]}
    # Crops are many: of an image a quarter of the proposals that the others learn from.
    samples = base(data)["task"]["samples"] // 4
    return {
        "rcnn": {**outside(data), "model": {"name": "rcnn", "backbone": backbone, "side": SIDES[data]}}
        | {"task.samples": samples},
        "fast_rcnn": {**outside(data), "model": fast},
        "outside": outside(data),
    }


def get_config(variant: str = "bccd") -> dict[str, Any]:
    """Give the recipe of a variant: the data, and perhaps the network."""
    if variant not in VARIANTS:
        raise KeyError(variant)
    data, _, network = variant.partition("_")
    recipe = base(data)
    for key, value in changes(data)[network].items() if network else ():
        node, _, last = key.rpartition(".")
        place = recipe[node] if node else recipe
        place[last] = value
    return recipe


VARIANTS = {f"{data}{end}": get_config for data in PLACES for end in ("", "_rcnn", "_fast_rcnn", "_outside")}


def sweep(variant: str = "bccd") -> Sweep:
    """Give the cells; training is long for a crop at a time, so that each has one seed."""
    return Sweep({"faster_rcnn": {}, **changes(variant)}, "faster_rcnn", {"AP": "max", "AP50": "max"}, seeds=(0,))
