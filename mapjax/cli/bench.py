"""Time mapjax, and with --peer torch and torchvision beside it: in turns, with the same CPU threads.

What is timed: the train step of a --config (a detector's peer is torchvision's Faster or Mask R-CNN with its own
defaults; --like makes ours the same network), or with --evaluation a forward pass over its held-out split, and the same
with decoding and measuring; the answer of published --weights to images; forward passes and train steps of networks
(--networks, beside torch and torch.compile); the input pipeline on your own JPEGs (--input FOLDER): decode, random crop
to 224 pixels, flip, batch; or what segmentation does besides (--segmentation): confusion matrices, contours and a CRF's
inference at 480×360. Medians and ratios are printed; above 1 mapjax is the faster. --profile also says from which
source file, and in what kind of operation, ours takes the time.

--check asks whether this device is right and fast: kernels and steps of training against its CPU in double precision,
resuming, train steps beside the chip's peak and roofline. --history keeps what was measured, and plots it.
"""

import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.errors import UserError, near

EXAMPLES = """
mapjax bench --config detect
mapjax bench --config detect:bccd --data voc:DIR --peer
mapjax bench --config detect:bccd --data voc:DIR --peer --like
mapjax bench --config instance:nuclei --data coco:DIR --peer --like
mapjax bench --config segment --evaluation
mapjax bench --segmentation
mapjax bench --networks resnet50,mobilenet_v2 --batch 8 --side 224 --peer
mapjax bench --networks mobilenet_v2 --profile
mapjax bench --networks resnet18,resnet50,unet,faster_rcnn --batch 8 --side 128 --peer --rounds 15
mapjax bench --networks retinanet,fcos,ssd,rt_detr --batch 2 --side 320 --peer
mapjax bench --weights torchvision/fasterrcnn_resnet50_fpn.DEFAULT --peer
mapjax bench --input IMAGES --peer
mapjax bench --check --out checked
mapjax bench --networks resnet50 --peer --history speeds.jsonl
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
LIKE_MASKS = {"model.mask_convs": "4", "model.mask_channels": "256", "model.mask_pool": "14"}  # likewise, of masks
ONE_STAGE = ("retinanet", "fcos", "ssd", "rt_detr")  # see bench_detectors.py
BESIDES = ("unet", "faster_rcnn", *ONE_STAGE)  # of --networks, beside classifiers
PEERS = (("torch", False), ("torch.compile", True))
Calls = dict[str, Callable[[], None]]
Times = dict[str, list[float]]  # who → seconds of each round
Figures = dict[str, float]  # what was timed → images a second, or how many times as fast as a peer


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("bench", __doc__ or "", EXAMPLES)
    terminal.add_config(parser)
    parser.add_argument("--data", metavar="FORMAT:PATH", help="as for mapjax train")
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help="published weights, as of mapjax predict")
    parser.add_argument(
        "--networks",
        metavar="NAMES",
        help="with commas between: classifiers by torchvision's names, " + ", ".join(BESIDES),
    )
    parser.add_argument("--input", type=pathlib.Path, metavar="DIR", help="a folder of JPEGs")
    parser.add_argument("--segmentation", action="store_true", help="confusion matrices, contours and a CRF, 480×360")
    parser.add_argument("--check", action="store_true", help="judge the device: right, repeatable, fast; a page")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("check"), metavar="DIR", help="of --check (check)"
    )
    parser.add_argument(
        "--history", type=pathlib.Path, metavar="FILE", help="add the speeds to a .jsonl file, and plot it"
    )
    parser.add_argument("--peer", action="store_true", help="time torch and torchvision too, if installed")
    parser.add_argument("--like", action="store_true", help="give a detector torchvision's sizes")
    parser.add_argument("--evaluation", action="store_true", help="time an evaluation of --config, not its train step")
    parser.add_argument("--profile", action="store_true", help="say where our time goes in a train step")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (5)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="of --networks and --input (8)")
    parser.add_argument("--side", type=int, default=224, metavar="N", help="of the images of --networks (224)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads or processes of --input (2)")
    arguments, overrides = terminal.parse(parser, argv, config=True)
    timed = {"config": time_config, "weights": time_weights, "networks": time_networks, "input": time_input}
    timed["segmentation"] = time_segmentation
    chosen = [name for name in (*timed, "check") if getattr(arguments, name)]
    if len(chosen) != 1:
        raise UserError(
            "say what to time with one of --config, --weights, --networks, --input, --segmentation and --check."
        )
    if arguments.peer and not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        raise UserError("--peer times torch and torchvision, which are not installed: pip install torch torchvision.")
    what = chosen[0] if chosen[0] in ("segmentation", "check") else getattr(arguments, chosen[0])
    print(f"mapjax: timing {what}; starting JAX …", flush=True)

    from mapjax.cli import bench_check

    if arguments.check:
        figures, code = bench_check.check(arguments.out, arguments.rounds)
    else:
        figures, code = timed[chosen[0]](arguments, overrides), 0
    if arguments.history is not None:
        bench_check.keep(arguments.history, figures)
    return code


def time_config(arguments: Any, overrides: dict[str, str]) -> Figures:
    """Time the step of a config, and torchvision's detector; or an evaluation."""
    from mapjax.cli import bench_runs
    from mapjax.config import load as configs

    config: Any = configs.load(arguments.config, overrides, data=arguments.data, trust=arguments.trust)
    if arguments.like:
        chosen = LIKE | (LIKE_MASKS if bench_runs.has_masks(config) else {}) | overrides
        config = configs.load(arguments.config, chosen, data=arguments.data, trust=arguments.trust)
    if arguments.evaluation:
        times = in_turns(bench_runs.evaluation_batch(config), arguments.rounds)
        figures = report("a batch of evaluation", times, config.eval_batch)
        forward, whole = (statistics.median(times[name]) for name in ("forward", "whole"))
        print(f"  decoding and measuring add {100 * (whole / forward - 1):.1f} %")
        return figures
    ours = bench_runs.train_step(config)
    steps = {"mapjax": ours.run}
    if arguments.peer:
        from mapjax.cli import bench_peers

        if config.model.name != "faster_rcnn":
            raise UserError("--peer knows a step for detectors only; for networks of classification use --networks.")
        steps["torchvision"] = bench_peers.detector_step(
            config, boxes=ours.boxes if bench_runs.has_masks(config) else ()
        )
    figures = report("train step", in_turns(steps, arguments.rounds), config.batch)
    if arguments.profile:
        show_profile(ours)
    return figures


def time_weights(arguments: Any, overrides: dict[str, str]) -> Figures:
    """Time what published weights take to answer: the network alone, and with decoding."""
    from mapjax.cli import bench_runs
    from mapjax.runs import pretrained

    loaded = pretrained.load(arguments.weights, overrides=overrides)
    published, count = loaded.config.init_from, loaded.config.eval_batch
    forward, whole = bench_runs.answers(loaded)
    calls = {"mapjax": whole}
    if arguments.peer:
        from mapjax.cli import bench_peers

        if not published.startswith("torchvision/"):
            raise UserError(f"--peer: torchvision has no {published}.")
        calls["torchvision"] = bench_peers.answers(published, bench_runs.PHOTO, count)
    figures = report("forward", in_turns({"mapjax": forward}, arguments.rounds), count)
    return figures | report("with decoding", in_turns(calls, arguments.rounds), count)


def time_networks(arguments: Any, _: dict[str, str]) -> Figures:
    """Time forward passes and train steps of networks, and the train step of a Faster R-CNN."""
    from mapjax.weights import recipes

    names = arguments.networks.split(",")
    nodes = {name: {"name": name} if name in BESIDES else recipes.classifier(name) for name in names}
    for name, node in nodes.items():
        if node is None:
            known = (one.removeprefix("torchvision/").partition(".")[0] for one in recipes.known())
            known = [*BESIDES, *filter(recipes.classifier, known)]
            raise UserError(f"--networks {name}: not known.{near(name, known)}")
    figures: Figures = {}
    for name, node in nodes.items():
        if name in ONE_STAGE:
            figures |= _one_stage(name, arguments)
            continue
        for train in (True,) if name == "faster_rcnn" else (False, True):
            ours, calls = _network(name, dict(node or {}), arguments, train)
            title = f"{name} {'train step' if train else 'forward'}"
            figures |= report(title, in_turns(calls, arguments.rounds), arguments.batch)
            if arguments.profile and train:
                show_profile(ours)
    return figures


def _one_stage(name: str, arguments: Any) -> Figures:
    """Time a one-stage detector's forward pass and train step, in turns with its peer."""
    from mapjax.cli import bench_detectors

    config = bench_detectors.config_of(name, arguments.batch, arguments.side)
    ours = bench_detectors.calls(config)
    theirs: Sequence[Any] = (None, None)
    if arguments.peer:
        from mapjax.cli import bench_peer_detectors

        theirs = bench_peer_detectors.calls(name, config)
    figures: Figures = {}
    for what, mine, peer in zip(("forward", "train step"), ours, theirs):
        turns = {"mapjax": mine.run} | ({} if peer is None else {"torch": peer})
        figures |= report(f"{name} {what}", in_turns(turns, arguments.rounds), arguments.batch)
    if arguments.profile:
        show_profile(ours[1])
    return figures


def _network(name: str, node: dict[str, Any], arguments: Any, train: bool) -> tuple[Any, Calls]:
    """Make our call of a network, and all that are timed in turns with it."""
    from mapjax.cli import bench_parts, bench_runs
    from mapjax.config import load as configs

    batch, side = arguments.batch, arguments.side
    config: Any = None
    if name == "faster_rcnn":
        sizes = {"batch": str(batch), "image_size": str((side, side)), "optimizer.name": "sgd", "ema": "0.0"}
        config = configs.load("detect", LIKE | sizes)
        ours = bench_runs.train_step(config)
    else:
        ours = bench_parts.network(node, batch, side, train=train)
    calls = {"mapjax": ours.run}
    for peer, compiled in PEERS if arguments.peer else ():
        from mapjax.cli import bench_peers

        calls[peer] = (
            bench_peers.detector_step(config, compiled=compiled)
            if config
            else bench_peers.network(name, batch, side, train=train, compiled=compiled)
        )
    return ours, calls


def time_segmentation(arguments: Any, _: dict[str, str]) -> Figures:
    """Time the counting of 1,000 label maps, and a CRF's mean field on a batch."""
    from mapjax.cli import bench_parts

    counts = bench_parts.counts_of_label_maps(arguments.batch, maps=1000)
    figures = report("1,000 label maps", in_turns(counts, arguments.rounds), 1000)
    times = in_turns({"mean field": bench_parts.mean_field_of(arguments.batch, iterations=5)}, arguments.rounds)
    return figures | report("a CRF of 5 iterations", times, arguments.batch)


def time_input(arguments: Any, _: dict[str, str]) -> Figures:
    """Time the input pipeline: batches a second over a folder of JPEGs."""
    files = sorted(file for file in arguments.input.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if len(files) < arguments.batch:
        raise UserError(
            f"--input {arguments.input}: {len(files)} JPEGs there, fewer than a batch of {arguments.batch}."
        )

    from mapjax.check import feed
    from mapjax.cli import bench_parts

    number = max(256 // arguments.batch, 1)
    streams = {
        "mapjax": feed.batches(list(map(str, files)), batch=arguments.batch, side=224, threads=arguments.workers)
    }
    if arguments.peer:
        from mapjax.cli import bench_peers

        streams["torch, PIL"] = bench_peers.loader(files, arguments.batch, arguments.workers, "pil")
        streams["torch"] = bench_peers.loader(files, arguments.batch, arguments.workers, "torchvision")
    calls = {name: bench_parts.several(stream, number) for name, stream in streams.items()}
    return report(f"input, {number} batches", in_turns(calls, arguments.rounds, settle=1.0), number * arguments.batch)


def in_turns(calls: dict[str, Callable[[], None]], rounds: int, settle: float = 0.3) -> Times:
    """Time each call `rounds` times, one after the other; the first two calls of each, which compile, do not count."""
    times: Times = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()  # torch.compile compiles again where sizes change
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(settle)  # let prefetching, and threads that spin for a while after their work, come to rest
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


def report(title: str, times: Times, images: int) -> Figures:
    """Print medians, spans, images a second and ratios; give the last two."""
    figures: Figures = {}
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(title)
    for name, taken in times.items():
        span, rate = f"{1e3 * min(taken):.1f}–{1e3 * max(taken):.1f}", images / medians[name]
        figures[f"{title}, {name}, images/s"] = rate
        print(f"  {name:12s} {1e3 * medians[name]:8.1f} ms  ({span})  {rate:8.1f} images/s", flush=True)
    for name in times if "mapjax" in times else ():
        if name != "mapjax":
            ratio, least = medians[name] / medians["mapjax"], min(times[name]) / min(times["mapjax"])
            figures[f"{title}, times as fast as {name}"] = ratio
            print(f"  mapjax is {ratio:.2f} times as fast as {name} (by the fastest rounds {least:.2f})", flush=True)
    return figures


def show_profile(step: Any, most: int = 16) -> None:
    """Print where the time of a step (bench_parts.Timed) goes."""
    from mapjax.plan import measured

    found = measured.parts(step.run, step.text())
    print("  share  ms of all threads   runs  where, and what")
    for part in found[:most]:
        print(f"  {100 * part.share:4.1f} %  {1e3 * part.seconds:10.1f}  {part.runs:13.0f}  {part.where}: {part.kind}")
    if rest := found[most:]:
        print(f"  {100 * sum(part.share for part in rest):4.1f} %  {len(rest)} others")
