"""Compare two checkouts in how fast every network answers, and how long it takes to compile.

    git worktree add ../before REVISION
    python tests/models/compare_speed.py ../before . [--networks resnet,unet] [--rounds 9] [--starts 3]

A process of each checkout runs at the same time; they are asked in turns, so that what else the machine does falls on
both. Printed are base / new of the forward pass (above 1: the new one is the faster) and new / base of the compiler's
time, by medians and by the fastest. The exit code is 1 where by both a forward pass has fewer than 0.95 times, or
compiling takes more than 1.2 times as much. A network that the base does not have is left out.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

BATCH, SIDE = 4, 96  # SIDE: the least that all of them take
FORWARD, COMPILE = 0.95, 1.2
SMALL = {"name": "resnet", "depth": 18}
NODES = {  # what is not called by its name alone
    "resnet": {"depth": 50},
    "resnet18": {"name": "resnet", "depth": 18},
    "resnext50": {"name": "resnet", "depth": 50, "groups": 32, "width_per_group": 4},
    "vgg": {"depth": 11, "batch_norm": True},
    "mobilenet_v3": {"name": "mobilenet", "version": 3},
    "vit": {"variant": "small", "patch": 16},
    "crf_rnn": {"unary": {"name": "fcn", "backbone": SMALL}},
    "unet_on_resnet": {"name": "unet", "backbone": SMALL},
    "faster_rcnn": {"backbone": SMALL},
}


def serve(name: str) -> None:
    """Compile a network and say how long that took; then answer once for each line that is read."""
    from mapjax.runtime import allocator

    allocator.keep()  # as every program does

    import jax
    import jax.numpy as jnp
    import numpy as np

    from mapjax.config import parts

    jax.config.update("jax_enable_compilation_cache", False)
    node = {"name": name} | NODES.get(name, {})
    model = parts.make("models", node, classes=10, image_size=(SIDE, SIDE))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((BATCH, SIDE, SIDE, 3), np.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda s: jnp.asarray(np.abs(rng.normal(0, 0.02, s.shape)), s.dtype), shapes)
    lowered = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]).lower(variables, images)
    began = time.perf_counter()
    compiled = lowered.compile()
    print(time.perf_counter() - began, flush=True)
    jax.block_until_ready(compiled(variables, images))
    for _ in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(compiled(variables, images))
        print(time.perf_counter() - began, flush=True)


class Process:
    """A network of a checkout, in a process of its own."""

    def __init__(self, checkout: pathlib.Path, name: str):
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--serve", name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, cwd=checkout, text=True, **pipes)

    def read(self) -> float:
        """Give the seconds that it says next."""
        return float(self.process.stdout.readline())

    def ask(self) -> float:
        """Let it answer once; gives the seconds."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()


@contextlib.contextmanager
def started(checkout: pathlib.Path, name: str) -> Iterator[tuple[Process, float]]:
    """Start a process; gives it, and the seconds that compiling took."""
    one = Process(checkout, name)
    try:
        yield one, one.read()
    finally:
        one.process.stdin.close()
        one.process.wait()


def measure(checkouts: Sequence[pathlib.Path], name: str, starts: int, rounds: int) -> list[dict[str, list[float]]]:
    """Give, of each checkout, the seconds of the forward passes and of compiling."""
    found: list[dict[str, list[float]]] = [{"forward": [], "compile": []} for _ in checkouts]
    for start in range(starts):
        order = [0, 1] if start % 2 == 0 else [1, 0]
        with contextlib.ExitStack() as stack:
            running = {}
            for place in order:  # one compiles after the other
                running[place], taken = stack.enter_context(started(checkouts[place], name))
                found[place]["compile"].append(taken)
            for turn in range(rounds):
                for place in order if turn % 2 == 0 else order[::-1]:
                    time.sleep(0.05)  # threads that spin for a while come to rest
                    found[place]["forward"].append(running[place].ask())
    return found


def ratios(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Give one / other by medians, and by the fastest."""
    return statistics.median(one) / statistics.median(other), min(one) / min(other)


def names_of(checkout: pathlib.Path) -> list[str]:
    """List the networks that a checkout has."""
    folders = [checkout / "mapjax" / "models" / kind for kind in ("backbones", "detectors", "segmenters")]
    models = {file.stem for folder in folders for file in folder.glob("*.py")}
    parts = {"__init__", "inverted_residual", "segmenter"}  # of networks
    return sorted((models - parts) | {name for name, node in NODES.items() if node.get("name") in models})


def main() -> int:
    """Compare, and print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=pathlib.Path, metavar="BASE NEW")
    parser.add_argument("--networks", metavar="NAMES", help="some of them, with commas between")
    parser.add_argument("--rounds", type=int, default=9, help="forward passes of each start (9)")
    parser.add_argument("--starts", type=int, default=3, help="how often each compiles (3)")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    if len(arguments.checkouts) != 2:
        parser.error("name two checkouts: BASE NEW")
    base, new = arguments.checkouts
    names = arguments.networks.split(",") if arguments.networks else names_of(new)
    slower = []
    print(f"{'base / new':16s} forward  fastest    new / base compile  fastest        ms  compile s")
    for name in names:
        if not arguments.networks and name not in names_of(base):
            continue
        old, now = measure((base, new), name, arguments.starts, arguments.rounds)
        forward, compiling = ratios(old["forward"], now["forward"]), ratios(now["compile"], old["compile"])
        bad = max(forward) < FORWARD or min(compiling) > COMPILE
        slower += [name] if bad else []
        print(
            f"{name:16s} {forward[0]:7.3f}  {forward[1]:7.3f}  {compiling[0]:18.3f}  {compiling[1]:7.3f}  "
            f"{1e3 * min(now['forward']):8.1f}  {min(now['compile']):9.2f}  {'SLOWER' if bad else ''}",
            flush=True,
        )
    print(f"slower: {', '.join(slower)}" if slower else "nothing is slower")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
