"""R-CNN, Fast R-CNN, Faster R-CNN: what each of the three changed, in accuracy, training and time an image.

    mapjax prepare --data voc:DIR --splits trainval,test --proposals fast
    mapjax ablate --config ablate_rcnn --data voc:DIR
        bccd (default): blood cells, with half the channels of detect.py's network and a short training.
    mapjax prepare --data "scenes:train_length=400,val_length=100" --splits train,val --proposals fast \\
        --out data/scenes_proposals
    mapjax ablate --config ablate_rcnn:scenes
        scenes: the embedded scenes of detect.py, of which only so many have proposals.
    mapjax bench --config ablate_rcnn:bccd_rcnn --data voc:DIR --evaluation --rounds 3
        seconds of a batch of images, without the search for proposals, whose own `prepare` says.

By name there are bccd_rcnn, bccd_fast_rcnn, bccd_outside (the network of Faster R-CNN on proposals from outside), and
the same of scenes. All three networks stand on one backbone and see as many images. docs/detection.md says more. In a
checkout, `python launch/ablate.py --config experiments/ablate_rcnn.py` is the same.
"""

from typing import Any

from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

COUNT = 500  # proposals of an image that a network is given
DURATION = "200 steps"
PLACES = {"bccd": "beside", "scenes": "data/scenes_proposals"}
SIDE = 48  # pixels of a crop


def base(data: str) -> dict[str, Any]:
    """Give detect.py's Faster R-CNN on a narrow backbone, for data that proposals were found for."""
    recipe: dict[str, Any] = {**configs.recipe(f"detect:{data}"), "duration": DURATION}
    recipe["model"]["backbone"]["width"] = 0.5
    if data == "scenes":
        recipe["data"] = {"name": "scenes", "train_length": 400, "val_length": 100}
    return recipe


def outside(data: str) -> dict[str, Any]:
    """Give what changes where proposals come from outside, by dotted keys."""
    return {"proposals": PLACES[data], "transform.proposals": COUNT, "task.proposals": "data"}


def changes(data: str) -> dict[str, dict[str, Any]]:
    """Give what each network changes, by dotted keys."""
    model, samples = base(data)["model"], base(data)["task"]["samples"]
    backbone = model["backbone"]
    fast = {"name": "fast_rcnn", "backbone": backbone, "representation": model["representation"]}
    crops = {"name": "rcnn", "backbone": backbone, "side": SIDE}
    return {
        # Each crop costs a pass of the network: of an image an eighth of the boxes that the others learn from.
        "rcnn": {**outside(data), "model": crops, "task.samples": samples // 8},
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
    """Give the papers' three; one seed each, as training is long for a crop at a time."""
    cells = {"rcnn": changes(variant)["rcnn"], "fast_rcnn": changes(variant)["fast_rcnn"], "faster_rcnn": {}}
    return Sweep(cells, "faster_rcnn", {"AP": "max", "AP50": "max"}, seeds=(0,))
