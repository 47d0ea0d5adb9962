"""Equal to torchvision, given its weights: needs torch and torchvision (run: pytest -m parity)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from parity import relative_errors, settled_images, tensors_of

from mapjax import paths, weights
from mapjax.config import parts
from mapjax.models.heads.boxes import ConvHead
from mapjax.ops import anchors, boxes, matching
from mapjax.ops.roi_align import roi_align
from mapjax.tasks.detection import frames

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

KEY = jax.random.key(0)
SIZE = (128, 192)
PADDED = (112, 160)  # torchvision pads it to 128×160


def randomized(network, seed=0):
    """The network with random weights and random batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.5 + 0.75)
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) * 0.5 + 0.75)
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
    return network.eval()


def photos(size=SIZE, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def random_boxes(rng, count, size=SIZE):
    centre = rng.uniform(0, [size[1], size[0]], (count, 2))
    half = np.exp(rng.uniform(0, 4.5, (count, 2))) / 2
    return np.concatenate([centre - half, centre + half], -1).astype(np.float32)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnet_logits(depth):
    torch.manual_seed(depth)
    network = randomized(getattr(torchvision.models, f"resnet{depth}")(num_classes=10))
    images = np.random.default_rng(0).normal(size=(2, 96, 64, 3)).astype(np.float32)
    model = parts.make("models", {"name": "resnet", "depth": depth}, classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = weights.from_torchvision(tensors_of(network), shapes)
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert np.abs(outputs["logits"] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_resnet_train_step():
    """Loss, statistics and gradients (by their lengths, as in `parity.errors_of_gradients`) of a step."""
    torch.manual_seed(0)
    # In float64, as float32 on torch's side alone moves a gradient by 4e-3 of its largest value.
    network = randomized(torchvision.models.resnet18(num_classes=10)).train().double()
    images = settled_images(network, (32, 32), 4)
    model = parts.make("models", {"name": "resnet", "depth": 18}, classes=10)
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(model.init, jax.random.key(0), images))

    def loss(params):
        outputs, stats = model.apply({**variables, "params": params}, images, train=True, key=None)
        return jnp.square(outputs["logits"]).mean(), stats

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    expected = network(torch.from_numpy(images).double().permute(0, 3, 1, 2)).square().mean()
    expected.backward()
    theirs = tensors_of(network)
    for name, mean in weights.to_torchvision({"stats": stats}).items():
        np.testing.assert_allclose(mean, theirs[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-4)
    ours = weights.to_torchvision({"params": gradient})
    theirs = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    errors = relative_errors(ours, theirs)
    assert max(errors.values()) <= 1e-4, max(errors, key=errors.get)


MOBILENET = {  # of torchvision's published weights: the norms are frozen, and have another epsilon than a classifier's
    "backbone": {"name": "mobilenet", "version": 3, "blocks": True, "norm": "frozen", "epsilon": 1e-5},
    "levels": ("block13", "head"),
    "anchor_sizes": ((32, 64, 128, 256, 512),) * 3,
}
NAMED = {  # torchvision's name: ours, options of the task
    "resnet50_fpn": ({}, {}),
    "resnet50_fpn_v2": ({"rpn_depth": 2, "box_convs": 4, "norm": "batch"}, {}),
    "mobilenet_v3_large_fpn": (MOBILENET, {"rpn_score_threshold": 0.05}),
    "mobilenet_v3_large_320_fpn": (MOBILENET, {"rpn_score_threshold": 0.05, "pre_nms_test": 150, "post_nms_test": 150}),
}


def detector(name, size=SIZE):
    """A torchvision detector with random weights, and ours of the same ones."""
    torch.manual_seed(18)
    ours, task = NAMED.get(name, ({"backbone": {"name": "resnet", "depth": 18}}, {}))
    task = {"score_threshold": 0.3, "pre_nms_test": 300, "post_nms_test": 200, **task}
    options = {
        "num_classes": 4,
        "min_size": min(size),
        "max_size": max(size),
        "box_score_thresh": 0.3,
        "rpn_pre_nms_top_n_test": task["pre_nms_test"],
        "rpn_post_nms_top_n_test": task["post_nms_test"],
    }
    if name in NAMED:
        make = getattr(torchvision.models.detection, f"fasterrcnn_{name}")
        network = make(weights=None, weights_backbone=None, **options)
    else:
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        body = resnet_fpn_backbone(
            backbone_name=name, weights=None, trainable_layers=5, norm_layer=torch.nn.BatchNorm2d
        )
        network = torchvision.models.detection.FasterRCNN(body, **options)
    network = spread(randomized(network), photos(size))
    model = parts.make("models", {"name": "faster_rcnn", **ours}, classes=3)
    task = parts.make("tasks", {"name": "two_stage", **task}, model=model, classes=("a", "b", "c"), image_size=size)
    return network, model, task


@torch.no_grad()
def spread(network, images):
    """Let scores spread over 0 to 1, and boxes be near their anchors: random weights give one answer to everything."""
    first, second = network.rpn.head, network.roi_heads.box_predictor
    for head, layers in ((first, (first.cls_logits, first.bbox_pred)), (second, (second.cls_score, second.bbox_pred))):
        seen = []
        hook = head.register_forward_hook(lambda module, inputs, outputs, seen=seen: seen.extend(outputs))
        network(inputs_of(images))
        hook.remove()
        for layer, outputs, wanted in zip(layers, seen, (2.0, 0.3 if head is first else 1.0)):
            values = torch.cat([x.flatten() for x in outputs]) if isinstance(outputs, list) else outputs
            mean = values.mean(0) if values.ndim > 1 else 0.0
            layer.weight.mul_(wanted / (values - mean).std())
            if values.ndim > 1:
                layer.bias.sub_(mean * wanted / (values - mean).std())
    return network


def inputs_of(images):
    return [torch.from_numpy(image).permute(2, 0, 1).to(torch.get_default_dtype()) / 255 for image in images]


def batch_of(images):
    count = len(images)
    return {
        "image": images,
        "matrix": np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)),
        "size": np.tile(np.int32(images.shape[1:3]), (count, 1)),
        "mask": np.ones(count, bool),
    }


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", SIZE), ("resnet18", PADDED), *((name, SIZE) for name in NAMED)]
)
def test_detector(name, size):
    network, model, task = detector(name, size)
    batch = batch_of(photos(size))
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(task.init, jax.random.key(0), batch))
    counted = sum(parameter.numel() for parameter in network.parameters())
    frozen = 2 * sum(leaf.size for path, leaf in flat(variables["stats"]) if path.endswith("scale"))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == counted - frozen

    @jax.jit
    def run(variables, batch):
        pixels = frames.pad(task.normalize(jnp.asarray(batch["image"])))
        outputs, _ = model.apply(variables, pixels, train=False, key=None)
        prediction = task.predict(variables, batch, KEY)
        return outputs, prediction["proposals"], task.decode(prediction, batch)

    outputs, proposals, result = run(variables, batch)
    network = network.double()
    seen = {}
    network.rpn.head.register_forward_hook(lambda module, inputs, outputs: seen.update(head=outputs))
    proposing = network.rpn.filter_proposals

    def propose(*given):
        seen["proposals"], seen["scores"] = found = proposing(*given)
        return found

    network.rpn.filter_proposals = propose
    network.roi_heads.box_predictor.register_forward_hook(lambda module, _, outputs: seen.update(regions=outputs))
    with torch.no_grad():
        expected = network([image.double() for image in inputs_of(batch["image"])])

    from torchvision.models.detection.rpn import concat_box_prediction_layers

    scores, offsets = concat_box_prediction_layers(*map(list, seen["head"]))
    close(outputs["objectness"].reshape(-1), scores.reshape(-1).numpy())
    close(outputs["deltas"].reshape(-1, 4), offsets.numpy())
    counts = [len(one) for one in seen["proposals"]]
    given = np.zeros((len(counts), max(counts), 4), np.float32)
    for row, one in zip(given, seen["proposals"]):
        row[: len(one)] = one.numpy()
    regions, _ = jax.jit(model.calls["regions"])(variables, outputs["features"], given)
    real = np.arange(max(counts)) < np.array(counts)[:, None]
    for ours, theirs in zip((regions["logits"], regions["deltas"]), seen["regions"]):
        close(np.asarray(ours)[real].reshape(sum(counts), -1), theirs.numpy())
    for i, answer in enumerate(expected):
        theirs = seen["proposals"][i].numpy()
        ours = np.asarray(proposals[i, : len(theirs)])
        # Scores that are nearer than float32's rounding have no order: there boxes are paired from left to right.
        tied = np.cumsum(np.diff(seen["scores"][i].numpy(), prepend=1.0) < -1e-6)
        ours, theirs = (boxes[np.lexsort((boxes[:, 0], tied))] for boxes in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=2e-2)
        found = np.asarray(result["valid"][i])
        assert found.sum() == len(answer["boxes"]) > 20
        ours = {name: np.asarray(result[name][i][found]) for name in ("scores", "classes", "boxes")}
        theirs = {name: value.numpy() for name, value in answer.items()}
        np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-4)
        # Scores may be closer than rounding, and then their order is chance: boxes are paired by class and place.
        apart = np.abs(ours["boxes"][:, None] - theirs["boxes"]).max(-1)
        apart[ours["classes"][:, None] + 1 != theirs["labels"]] = 1e6
        rows, columns = scipy.optimize.linear_sum_assignment(apart)
        np.testing.assert_allclose(ours["scores"][rows], theirs["scores"][columns], atol=1e-4)
        np.testing.assert_array_equal(ours["classes"][rows] + 1, theirs["labels"][columns])
        np.testing.assert_allclose(ours["boxes"][rows], theirs["boxes"][columns], atol=2e-2)


def flat(tree):
    return zip(paths.paths(tree), jax.tree.leaves(tree))


def close(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_weights_there_and_back():
    network, _, task = detector("resnet18")
    tensors = tensors_of(network)
    variables = weights.from_torchvision(tensors, jax.eval_shape(task.init, jax.random.key(0), batch_of(photos())))
    back = weights.to_torchvision(variables)
    assert set(back) == {name for name in tensors if not name.endswith("num_batches_tracked")}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_the_convolutional_box_head_in_training():
    """Its normalization is over all boxes; scores and running statistics after a step."""
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

    torch.manual_seed(0)
    network = randomized(FastRCNNConvFCHead((8, 7, 7), [8] * 4, [16], norm_layer=torch.nn.BatchNorm2d)).train()
    module = ConvHead(4, 16, "batch", jnp.float32)
    pooled = np.random.default_rng(0).normal(size=(30, 7, 7, 8)).astype(np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), pooled)
    variables = weights.from_torchvision(tensors_of(network), shapes)
    found, changed = jax.jit(lambda v, x: module.apply(v, x, True, mutable=["stats"]))(variables, pooled)
    with torch.no_grad():
        close(found, network(torch.from_numpy(pooled).permute(0, 3, 1, 2)).numpy())
    after = tensors_of(network)
    for name, value in weights.to_torchvision(changed).items():
        np.testing.assert_allclose(value, after[name], rtol=1e-4, atol=1e-5)


def test_box_coder():
    from torchvision.models.detection._utils import BoxCoder

    rng = np.random.default_rng(0)
    truth, proposals = random_boxes(rng, 50), random_boxes(rng, 50)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    expected = coder.encode_single(torch.from_numpy(truth), torch.from_numpy(proposals)).numpy()
    np.testing.assert_allclose(
        boxes.encode(jnp.asarray(truth), jnp.asarray(proposals), (10, 10, 5, 5)), expected, rtol=1e-4, atol=1e-4
    )
    deltas = rng.normal(size=(50, 4)).astype(np.float32) * 20
    expected = coder.decode_single(torch.from_numpy(deltas), torch.from_numpy(proposals)).numpy()
    np.testing.assert_allclose(
        boxes.decode(jnp.asarray(deltas), jnp.asarray(proposals), (10, 10, 5, 5)), expected, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("low_quality", [False, True])
def test_matcher(low_quality):
    from torchvision.models.detection._utils import Matcher

    rng = np.random.default_rng(1)
    iou = np.round(rng.uniform(0.01, 1, (7, 300)) ** 2, 1).astype(np.float32)  # rounded: many ties
    expected = Matcher(0.7, 0.3, low_quality)(torch.from_numpy(iou)).numpy()
    ours = matching.match(jnp.asarray(iou), jnp.ones(7, bool), high=0.7, low=0.3, low_quality=low_quality)
    np.testing.assert_array_equal(ours, expected)


def test_anchors():
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes, ratios = ((32,), (64,), (128,), (256,), (512,)), (0.5, 1.0, 2.0)
    image = (416, 608)
    grids = [tuple(-(-side // 2**level) for side in image) for level in range(2, 7)]
    generator = AnchorGenerator(sizes, (ratios,) * 5)
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    expected = generator(ImageList(torch.zeros(1, 3, *image), [image]), maps)[0].numpy()
    ours = np.concatenate([anchors.grid_anchors(image, grid, size, ratios) for grid, size in zip(grids, sizes)])
    np.testing.assert_array_equal(ours, expected)


def test_roi_align_and_its_gradient():
    rng = np.random.default_rng(2)
    maps = [rng.normal(size=(1, 8, SIZE[0] // s, SIZE[1] // s)).astype(np.float32) for s in (4, 8, 16, 32)]
    rois = np.concatenate([random_boxes(rng, 60), np.float32([[5, 5, 5, 5], [0, 0, 192, 128], [-30, -9, 300, 200]])])
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs = {str(i): torch.from_numpy(m).requires_grad_() for i, m in enumerate(maps)}
    expected = pooler(theirs, [torch.from_numpy(rois)], [SIZE])
    cotangent = rng.normal(size=(len(rois), 7, 7, 8)).astype(np.float32)
    (expected * torch.from_numpy(cotangent).permute(0, 3, 1, 2)).sum().backward()
    ours, pull = jax.vjp(
        lambda f: roi_align(f, (4, 8, 16, 32), jnp.asarray(rois)), [m[0].transpose(1, 2, 0) for m in maps]
    )
    np.testing.assert_allclose(ours, expected.detach().permute(0, 2, 3, 1).numpy(), atol=1e-4)
    for gradient, their in zip(pull(jnp.asarray(cotangent))[0], theirs.values()):
        np.testing.assert_allclose(gradient, their.grad[0].permute(1, 2, 0).numpy(), atol=1e-4)
