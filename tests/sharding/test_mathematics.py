"""Lower precision, accumulation and rematerialisation on one device: the mathematics of the plain step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import classified, difference, distance

from mapjax.config import parts
from mapjax.engine import step as train
from mapjax.models.backbones import googlenet, resnet
from mapjax.task import Context

QUICKLY = {"xla_backend_optimization_level": 0}  # of the machine code: half of the time to compile

VIT = {"name": "vit", "width": 32, "depth": 3, "heads": 4, "mlp": 64, "patch": 4, "image_size": 16}
RESNET = {"name": "resnet", "depth": 10, "width": 0.25, "stem": "small"}
NETWORKS = {
    "vit": VIT,
    "stacked vit": {**VIT, "stacked": True},
    "resnet": RESNET,
    "resnet of groups": {**RESNET, "norm": "group"},
    "bottlenecks of groups": {**RESNET, "depth": 59, "norm": "group"},
    "unet": {"name": "unet", "depth": 1, "width": 8, "norm": "group"},
    "googlenet": {"name": "googlenet", "width": 0.125, "dropout": 0.0, "dropout_aux": 0.0},
    "detector": {
        "name": "faster_rcnn",
        "channels": 16,
        "representation": 32,
        "anchor_sizes": ((4,), (8,), (16,), (32,), (64,)),
    },
}


def slow(*names):
    """Cases that compile for long, or whose code another case has too."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


BACKBONE = {"name": "resnet", "depth": 11, "width": 0.25, "norm": "group"}

# Everything is drawn: no anchor is ignored, and every anchor becomes a proposal that the second stage learns from. So
# nothing hangs on chance, or on which of two equal scores a rounding makes the greater.
EVERYTHING = {
    "pre_nms_train": 1000, "post_nms_train": 1000, "rpn_nms": 1.0, "rpn_samples": 1000, "rpn_positives": 1.0,
    "rpn_iou": (0.5, 0.5), "samples": 1000, "positives": 1.0,
}  # fmt: skip
TASKS = {"unet": {"name": "segment"}, "detector": {"name": "two_stage", **EVERYTHING}}


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    """Networks of two or three blocks, of each kind, compile in seconds."""
    monkeypatch.setitem(resnet.STAGES, 10, (1, 1, 0, 0))
    monkeypatch.setitem(resnet.STAGES, 59, (2, 1, 0, 0))
    monkeypatch.setitem(resnet.STAGES, 11, (1, 1, 1, 1))
    few = ("inception3a", "inception4a")
    monkeypatch.setattr(googlenet, "BLOCKS", {name: googlenet.BLOCKS[name] for name in few})


@pytest.fixture
def double(monkeypatch):
    """In double precision, where no rounding turns a ReLU: what differs is wrong."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    drawn.cache_clear()
    with jax.enable_x64(True):
        yield
    drawn.cache_clear()


def task_of(name, **options):
    options = {"dtype": jnp.dtype(jnp.float32).name} | options
    if name == "detector":
        options["backbone"] = BACKBONE | {"remat": options.pop("remat", False)}
    model = parts.make("models", NETWORKS[name] | options, classes=10)
    extra = {"model": model, "classes": tuple("0123456789"), "image_size": (16, 16), "class_counts": None}
    return parts.make("tasks", TASKS.get(name, {"name": "classify"}), **extra)


def batch_of(name, seed=0):
    """Noise with a label and a label map in which every pixel has a class; of the detector with two boxes each."""
    batch = classified(seed, 32 if name == "detector" else 16)
    rng = np.random.default_rng(100 + seed)
    count, side = batch["image"].shape[:2]
    truth = {"label_map": rng.integers(0, 10, batch["image"].shape[:3]).astype(np.uint8)}
    if name == "detector":
        corners = rng.uniform(0, side / 2, (count, 2, 2))
        truth = {
            "boxes": np.concatenate([corners, corners + rng.uniform(6, side / 2, (count, 2, 2))], -1).astype("f"),
            "classes": rng.integers(0, 10, (count, 2)).astype(np.int32),
            "crowd": np.zeros((count, 2), bool),
            "valid": np.ones((count, 2), bool),
            "size": np.full((count, 2), side, np.int32),
            "matrix": np.tile(np.eye(3, dtype="f"), (count, 1, 1)),
        }
    return jax.tree.map(jnp.asarray, batch | truth)


@functools.cache
def drawn(name):
    """Parameters and statistics as drawn."""
    return jax.jit(task_of(name).init, compiler_options=QUICKLY)(jax.random.key(0), batch_of(name))


def noisy(name):
    """Parameters as drawn, with noise: some layers start at zero, and would hide what is before them."""
    variables = drawn(name)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda one: one + 0.05 * rng.normal(size=one.shape).astype("f"), variables["params"])
    return variables | {"params": params}


def value_and_gradient(name, **options):
    """The loss of the first batch and its gradient."""
    task, variables = task_of(name, **options), noisy(name)

    def loss(params):
        return task.loss(variables | {"params": params}, batch_of(name), Context(jax.random.key(2)))[0]

    return jax.jit(jax.value_and_grad(loss), compiler_options=QUICKLY)(variables["params"])


def trained(name, accumulate):
    """The scalars of three steps from the same parameters, and the state after them."""
    task, tx = task_of(name), optax.sgd(1e-2 if "vit" in name else 1e-3, momentum=0.9)
    shapes = jax.eval_shape(lambda: train.init_state(task, tx, batch_of(name), seed=0, ema=0.0))
    params, stats = drawn(name)["params"], drawn(name)["stats"]
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = state._replace(params=params, stats=stats, opt=tx.init(params))
    step = jax.jit(train.make_step(task, tx, seed=0, accumulate=accumulate), compiler_options=QUICKLY)
    scalars = []
    for seed in range(3):
        state, found = step(state, batch_of(name, seed))
        scalars.append(found)
    return scalars, state


@pytest.mark.parametrize("name", ["stacked vit", "resnet", "bottlenecks of groups", *slow("vit", "detector")])
def test_bfloat16_is_the_same_but_for_its_rounding(name):
    """A number of 8 bits is off by 2^-9 at most, and a few layers add up a few such errors.

    About that share of the ReLUs turns, which changes a gradient by the root of it; a detector has the most of them.
    """
    turned = (3 if name == "detector" else 2.5) * 2**-4.5
    loss, gradient = value_and_gradient(name)
    low_loss, low_gradient = value_and_gradient(name, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low_gradient)} == {jnp.dtype("float32")}
    assert abs(low_loss / loss - 1) < 4 * 2**-9
    assert 2**-12 < distance(gradient, low_gradient) < (12 * 2**-9 if "vit" in name else turned)


@pytest.mark.parametrize(
    "name", ["vit", "unet", *slow("stacked vit", "resnet of groups", "bottlenecks of groups", "detector")]
)
def test_accumulation_is_the_whole_batch_at_once(name, double):
    """Where the loss is a mean over images, or over as many pixels of each, and no statistics are of the batch.

    A detector's is so where as many proposals are drawn of each image, as here all are.
    """
    (scalars, state), (found, parts_state) = trained(name, 1), trained(name, 4)
    # The softmax of attention, boxes, and constants of the fast convolution are in single precision.
    assert max(difference(*pair) for pair in zip(scalars, found)) < 1e-6
    assert distance(state.opt, parts_state.opt) < 1e-6
    assert difference(state.params, parts_state.params) < 1e-6


@pytest.mark.parametrize(
    ("name", "remat"),
    [
        ("googlenet", True),
        ("resnet", True),
        ("unet", True),
        ("vit", True),
        ("vit", "dots"),
        pytest.param("detector", True, marks=pytest.mark.slow),
    ],
)
def test_rematerialisation_changes_no_value(name, remat, double):
    plain, again = value_and_gradient(name), value_and_gradient(name, remat=remat)
    assert difference(plain[0], again[0]) < 1e-12
    assert distance(plain[1], again[1]) < 1e-12
