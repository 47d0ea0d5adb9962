"""Time mapjax, and torch and torchvision beside it where they are installed: in turns, with the same CPU threads.

What is timed: the train step of a --config (a detector's peer is torchvision's Faster R-CNN with its own defaults;
--like makes ours the same network), or with --evaluation a forward pass over its held-out split, and the same with
decoding and measuring; forward passes and train steps of classification networks (--networks); the input pipeline
on your own JPEGs (--input FOLDER): decode, random crop to 224 pixels, flip, batch; or what segmentation does besides
(--segmentation): confusion matrices, contours and a CRF's inference at 480×360. Medians and ratios are printed;
above 1 mapjax is the faster. --profile also says from which source file, and in what kind of operation, ours takes the
time.
"""

import itertools
import pathlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mapjax.cli import terminal
from mapjax.errors import UserError, near

EXAMPLES = """
python launch/bench.py --config experiments/detect.py
python launch/bench.py --config experiments/detect.py:bccd --data voc:DIR --peer
python launch/bench.py --config experiments/detect.py:bccd --data voc:DIR --peer --like
python launch/bench.py --config experiments/segment.py --evaluation
python launch/bench.py --segmentation
python launch/bench.py --networks resnet50,mobilenet_v2 --batch 8 --side 224 --peer
python launch/bench.py --networks mobilenet_v2 --profile
python launch/bench.py --input IMAGES --peer
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
NETWORKS = {  # torchvision's name → the node of ours
    "alexnet": {"name": "alexnet"},
    "vgg16": {"name": "vgg", "depth": 16},
    "resnet18": {"name": "resnet", "depth": 18},
    "resnet50": {"name": "resnet", "depth": 50},
    "resnext50_32x4d": {"name": "resnet", "depth": 50, "groups": 32, "width_per_group": 4},
    "mobilenet_v2": {"name": "mobilenet", "version": 2},
    "efficientnet_b0": {"name": "efficientnet", "variant": "b0"},
    "convnext_tiny": {"name": "convnext", "variant": "tiny"},
    "vit_b_16": {"name": "vit", "variant": "base", "patch": 16},
}


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="experiment file, and its variant")
    parser.add_argument("--data", metavar="FORMAT:PATH", help="as for launch/main.py")
    parser.add_argument("--networks", metavar="NAMES", help=f"of {', '.join(NETWORKS)}, with commas between")
    parser.add_argument("--input", type=pathlib.Path, metavar="DIR", help="a folder of JPEGs")
    parser.add_argument("--segmentation", action="store_true", help="confusion matrices, contours and a CRF, 480×360")
    parser.add_argument("--peer", action="store_true", help="time torch and torchvision as well")
    parser.add_argument("--like", action="store_true", help="give a detector torchvision's sizes")
    parser.add_argument("--evaluation", action="store_true", help="time an evaluation of --config, not its train step")
    parser.add_argument("--profile", action="store_true", help="say where our time goes in a train step")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (5)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="of --networks and --input (8)")
    parser.add_argument("--side", type=int, default=224, metavar="N", help="of the images of --networks (224)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads or processes of --input (2)")
    arguments, overrides = terminal.parse(parser, argv, config=True)
    chosen = [name for name in ("config", "networks", "input", "segmentation") if getattr(arguments, name)]
    if len(chosen) != 1:
        raise UserError("say what to time with one of --config, --networks, --input and --segmentation.")
    what = chosen[0] if chosen[0] == "segmentation" else getattr(arguments, chosen[0])
    print(f"mapjax: timing {what}; starting JAX …", flush=True)
    if arguments.config:
        time_config(arguments, overrides)
    elif arguments.networks:
        time_networks(arguments)
    elif arguments.segmentation:
        time_segmentation(arguments)
    else:
        time_input(arguments)
    return 0


def time_config(arguments: Any, overrides: dict[str, str]) -> None:
    """Time the step of a config, and torchvision's detector."""
    from mapjax.config import load as configs

    chosen = {**(LIKE if arguments.like else {}), **overrides}
    config: Any = configs.load(arguments.config, chosen, data=arguments.data)
    if arguments.evaluation:
        times = in_turns(evaluations(config), arguments.rounds)
        report("a batch of evaluation", times, config.eval_batch)
        forward, whole = (statistics.median(times[name]) for name in ("forward", "whole"))
        return print(f"  decoding and measuring add {100 * (whole / forward - 1):.1f} %")
    ours = config_step(config)
    steps = {"mapjax": ours.run}
    if arguments.peer:
        import peers

        if config.model.name != "faster_rcnn":
            raise UserError("--peer knows a step for detectors only; for networks of classification use --networks.")
        steps["torchvision"] = peers.detector_step(config)
    report("train step", in_turns(steps, arguments.rounds), config.batch)
    if arguments.profile:
        show_profile(ours)


def time_networks(arguments: Any) -> None:
    """Time forward passes and train steps of classification networks."""
    for name in arguments.networks.split(","):
        if name not in NETWORKS:
            raise UserError(f"--networks {name}: not known.{near(name, NETWORKS)}")
    for name in arguments.networks.split(","):
        for train in (False, True):
            ours = network(NETWORKS[name], arguments.batch, arguments.side, train=train)
            calls = {"mapjax": ours.run}
            if arguments.peer:
                import peers

                calls["torchvision"] = peers.network(name, arguments.batch, arguments.side, train=train)
            title = f"{name} {'train step' if train else 'forward'}"
            report(title, in_turns(calls, arguments.rounds), arguments.batch)
            if arguments.profile and train:
                show_profile(ours)


def time_segmentation(arguments: Any) -> None:
    """Time the counting of 1,000 label maps, and mean field on a batch, of random patches of 11 classes at 480×360."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mapjax.ops import label_maps, mean_field

    rng = np.random.default_rng(0)
    batch, classes, size = arguments.batch, 11, (360, 480)

    def patches() -> Any:
        small = rng.integers(0, classes, (batch, size[0] // 20, size[1] // 20)).astype(np.uint8)
        return jnp.asarray(small.repeat(20, 1).repeat(20, 2))

    truth, found = patches(), patches()
    radius = 0.0075 * float(np.hypot(*size))
    confusion = jax.jit(lambda one, other: label_maps.confusion(one, other, classes))
    contours = jax.jit(lambda one, other: label_maps.contours(one, other, classes, radius))

    def all_of(call: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in range(-(-1000 // batch)):
                jax.block_until_ready(call(truth, found))

        return run

    counts = {"confusion": all_of(confusion), "contours": all_of(contours)}
    report("1,000 label maps", in_turns(counts, arguments.rounds), 1000)
    logits = jax.nn.one_hot(found, classes) * 2
    photos = jnp.asarray(rng.normal(size=(batch, *size, 3)).astype(np.float32))
    energy = mean_field.Energy(jnp.ones(classes), jnp.ones(classes), 1 - jnp.eye(classes))
    infer = jax.jit(lambda x, seen: mean_field.infer(x, seen, energy, mean_field.Kernels(), iterations=5))
    times = in_turns({"mean field": lambda: jax.block_until_ready(infer(logits, photos))}, arguments.rounds)
    report("a CRF of 5 iterations", times, batch)


def time_input(arguments: Any) -> None:
    """Time the input pipeline: batches a second over a folder of JPEGs."""
    files = sorted(file for file in arguments.input.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if len(files) < arguments.batch:
        raise UserError(
            f"--input {arguments.input}: {len(files)} JPEGs there, fewer than a batch of {arguments.batch}."
        )
    number = max(256 // arguments.batch, 1)
    streams = {"mapjax": our_input(files, arguments.batch, arguments.workers)}
    if arguments.peer:
        import peers

        streams["torch, PIL"] = peers.loader(files, arguments.batch, arguments.workers, "pil")
        streams["torch"] = peers.loader(files, arguments.batch, arguments.workers, "torchvision")

    def several(stream: Any) -> Callable[[], None]:
        return lambda: deque(itertools.islice(stream, number), maxlen=0).clear()

    calls = {name: several(stream) for name, stream in streams.items()}
    report(f"input, {number} batches", in_turns(calls, arguments.rounds, settle=1.0), number * arguments.batch)


def in_turns(calls: dict[str, Callable[[], None]], rounds: int, settle: float = 0.3) -> dict[str, list[float]]:
    """Time each call `rounds` times, one after the other; the first call of each, which compiles, does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(settle)  # let prefetching, and threads that spin for a while after their work, come to rest
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


def report(title: str, times: dict[str, list[float]], images: int) -> None:
    """Print medians, spans, images a second and ratios."""
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(title)
    for name, taken in times.items():
        span, rate = f"{1e3 * min(taken):.1f}–{1e3 * max(taken):.1f}", images / medians[name]
        print(f"  {name:12s} {1e3 * medians[name]:8.1f} ms  ({span})  {rate:8.1f} images/s", flush=True)
    for name in times if "mapjax" in times else ():
        if name != "mapjax":
            print(f"  mapjax is {medians[name] / medians['mapjax']:.2f} times as fast as {name}", flush=True)


def show_profile(step: "Timed", most: int = 16) -> None:
    """Print where the time of a step goes."""
    from mapjax.plan import measured

    found = measured.parts(step.run, step.text())
    print("  share  ms of all threads   runs  where, and what")
    for part in found[:most]:
        print(f"  {100 * part.share:4.1f} %  {1e3 * part.seconds:10.1f}  {part.runs:13.0f}  {part.where}: {part.kind}")
    if rest := found[most:]:
        print(f"  {100 * sum(part.share for part in rest):4.1f} %  {len(rest)} others")


class Timed(NamedTuple):
    """What is timed: `run` waits for the end; `text` gives the compiled program."""

    run: Callable[[], None]
    text: Callable[[], str]


def config_step(config: Any) -> Timed:
    """Make our step of a config: loss, gradients and update of a real batch."""
    import jax

    from mapjax.data import pipeline
    from mapjax.engine import step
    from mapjax.runs import setup as setups

    setup = setups.build(config)
    size, like, made = config.batch, setup.batches[-1], setup.program
    sampler, transform = setup.sampler, setup.transforms[-1][1]
    options = {"batch": size, "seed": 0, "sampler": sampler, "sharding": setup.sharding}
    with pipeline.train_batches(setup.train, transform, **options) as batches:
        batch = next(batches)
    compiled = made.compile(like)
    kept = [step.draw_state(made.init, like, made.places)]

    def once() -> None:
        kept[0], scalars = compiled(kept[0], batch)
        jax.block_until_ready(scalars)

    return Timed(once, compiled.as_text)


def evaluations(config: Any) -> dict[str, Callable[[], None]]:
    """Make the forward pass of an evaluation batch, and it with decoding and measuring as `evaluate` does them."""
    import jax

    from mapjax.data import pipeline
    from mapjax.engine import evaluate
    from mapjax.runs import evaluation, sources
    from mapjax.runs import setup as setups

    setup = setups.build(config)
    source, task, metric = setup.held_out, setup.task, setup.metric
    size, sharding = evaluation.eval_batch(config, setup.mesh)
    transform = sources.make_transform(config, augment=False, scored=source)
    with pipeline.eval_batches(source, transform, batch=size, sharding=sharding) as batches:
        batch = next(batches)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    key = jax.random.key(0)
    forward = jax.jit(lambda variables, batch: {**task.predict(variables, batch, key), "features": None})
    answer = evaluate.make_answer(task, metric)

    def whole() -> None:
        metric.measure(evaluate.local(answer(variables, batch)), evaluate.local(batch))

    def only_forward() -> None:
        jax.block_until_ready(forward(variables, batch))

    return {"forward": only_forward, "whole": whole}


def network(node: dict[str, Any], batch: int, side: int, *, train: bool) -> Timed:
    """Make our forward pass, or a step of SGD with momentum, of a network with 1,000 classes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from mapjax.config import parts
    from mapjax.ops import losses

    model = parts.make("models", node, classes=1000, image_size=(side, side))
    images = jnp.asarray(np.random.default_rng(0).random((batch, side, side, 3), np.float32))
    labels = jnp.arange(batch) % 1000
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.02, s.shape), jnp.float32), shapes)
    variables["stats"] = jax.tree.map(jnp.abs, variables["stats"])
    if not train:
        forward = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])

        def once_forward() -> None:
            jax.block_until_ready(forward(variables, images))

        return Timed(once_forward, lambda: forward.lower(variables, images).compile().as_text() or "")
    tx = optax.sgd(1e-4, momentum=0.9)

    def loss(params: Any, stats: Any, key: Any) -> Any:
        outputs, new = model.apply({"params": params, "stats": stats}, images, train=True, key=key)
        return losses.cross_entropy(outputs["logits"], labels).mean(), new

    def step(state: Any) -> Any:
        params, stats, opt, key = state
        key, now = jax.random.split(key)
        grads, stats = jax.grad(loss, has_aux=True)(params, stats, now)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), stats, opt, key

    jitted = jax.jit(step, donate_argnums=0)
    kept = [(variables["params"], variables["stats"], tx.init(variables["params"]), jax.random.key(0))]

    def once() -> None:
        kept[0] = jax.block_until_ready(jitted(kept[0]))

    return Timed(once, lambda: jitted.lower(kept[0]).compile().as_text() or "")


def our_input(files: Sequence[pathlib.Path], batch: int, workers: int) -> Any:
    """Make our pipeline over JPEG files, with one label for all."""
    import numpy as np

    from mapjax.data import pipeline
    from mapjax.data.source import Records, Source
    from mapjax.data.transforms import crops

    def record(index: int) -> dict[str, Any]:
        return {"id": index, "file": files[index].name, "image": str(files[index]), "label": np.int32(0)}

    source = Source("files", "train", ("any",), (1,), Records(len(files), record), {}, "")
    transform = crops.make(size=(224, 224), augment={"random_resized_crop": (0.08, 1.0), "flip_horizontal": 0.5})
    return pipeline.train_batches(source, transform, batch=batch, seed=0, threads=workers)


if __name__ == "__main__":
    terminal.run_main(main)
