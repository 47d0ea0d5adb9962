"""Time the train step of a detection config, and torchvision's Faster R-CNN beside it where torch is installed.

Both train on the same number of pictures of the same size with the same number of CPU threads, in turns, and the
medians and their ratio are printed. torchvision's network is the one of depth 18 or 50 with its own defaults;
--like makes ours the same network (256 channels, 512 sampled boxes a picture …) instead of the config's.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from mapjax import terminal

EXAMPLES = """
python launch/bench.py --config experiments/detect.py
python launch/bench.py --config experiments/detect.py:bccd --data voc:DIR --peer
python launch/bench.py --config experiments/detect.py:bccd --data voc:DIR --peer --like
"""

LIKE = {  # torchvision's defaults, where a config departs from them
    "model.channels": "256",
    "model.representation": "1024",
    "model.backbone.width": "1.0",
    "task.pre_nms_train": "2000",
    "task.post_nms_train": "2000",
    "task.samples": "512",
    "task.positives": "0.25",
}


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="experiment file, and its variant")
    parser.add_argument("--data", metavar="FORMAT:PATH", help="as for launch/main.py")
    parser.add_argument("--peer", action="store_true", help="time torchvision as well (needs torch and torchvision)")
    parser.add_argument("--like", action="store_true", help="give our network torchvision's sizes")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (5)")
    arguments, overrides = terminal.parse(parser, argv, config=True)
    print(f"mapjax: timing {arguments.config}; starting JAX …", flush=True)

    from mapjax import config as configs

    chosen = {**(LIKE if arguments.like else {}), **overrides}
    config: Any = configs.load(arguments.config, chosen, data=arguments.data)
    steps = {"mapjax": ours(config)}
    if arguments.peer:
        steps["torchvision"] = torchvision_step(config)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # compiles, and fills caches
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    for name, taken in times.items():
        print(
            f"{name:12s} {statistics.median(taken):.3f} s a step (of {config.batch}; {min(taken):.3f}–{max(taken):.3f})"
        )
    if arguments.peer:
        ratio = statistics.median(times["torchvision"]) / statistics.median(times["mapjax"])
        print(f"mapjax is {ratio:.2f} times as fast")
    return 0


def ours(config: Any) -> Callable[[], None]:
    """Make our step: loss, gradients and update of a real batch."""
    import jax

    from mapjax import run, schedule, shard, train
    from mapjax.data import pipeline

    config, source, _ = run.open_sources(config)
    task = run.make_task(config, source.classes)
    mesh = shard.make_mesh(config.mesh.to_dict())
    sharding = shard.batch_sharding(mesh, config.batch)
    transform = run.make_transform(config, augment=True)
    with pipeline.train_batches(source, transform, batch=config.batch, seed=0, sharding=sharding) as batches:
        batch = next(batches)
    tx, _, _ = run.make_optimizer(config, task, batch, schedule.Clock(config.batch, len(source.records), 1000))

    def init(batch: Any) -> Any:
        return train.init_state(task, tx, batch, seed=0, ema=config.ema)

    places = shard.placement(jax.eval_shape(init, batch), mesh)
    state = train.draw_state(init, batch, places)
    # Placed as in fit: else the second step would compile again.
    step = jax.jit(train.make_step(task, tx, seed=0, ema=config.ema), donate_argnums=0, out_shardings=(places, None))
    kept = [state]

    def once() -> None:
        kept[0], scalars = step(kept[0], batch)
        jax.block_until_ready(scalars)

    return once


def torchvision_step(config: Any) -> Callable[[], None]:
    """Make torchvision's step on random pictures with 12 boxes each (its time does not depend on what they show)."""
    import os

    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from torchvision.models import detection  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    height, width = config.image_size
    body = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=f"resnet{config.model.backbone.depth}",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    model = detection.FasterRCNN(body, 4, min_size=min(height, width), max_size=max(height, width)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [width * 0.7, height * 0.7], (config.batch, 12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(12, 0.3 * height, corners.shape)], -1).astype(np.float32)
    images = [torch.rand(3, height, width) for _ in range(config.batch)]
    truth = [{"boxes": torch.tensor(b), "labels": torch.ones(12, dtype=torch.long)} for b in boxes]

    def once() -> None:
        loss: Any = sum(model(images, truth).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return once


if __name__ == "__main__":
    terminal.run_main(main)
