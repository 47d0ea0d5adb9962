"""DETR and RT-DETR equal transformers': needs torch and transformers (run: pytest -m parity)."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import photos, randomized, tensors_of

from mapjax import weights
from mapjax.config import parts
from mapjax.ops.matching import BACKGROUND
from mapjax.tasks.detection import set_prediction
from mapjax.weights import huggingface

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZE, CLASSES, QUERIES, ROWS = (96, 128), 5, 9, 4
SMALL = {"width": 32, "heads": 4, "hidden": 48, "encoder": 2, "decoder": 3, "queries": QUERIES}


def detr(**options):
    """Both networks with the same random weights; transformers' one evaluates."""
    from transformers import DetrConfig, DetrForObjectDetection

    torch.manual_seed(0)
    config = DetrConfig(
        backbone_config=None, backbone="resnet18", use_timm_backbone=True, num_labels=CLASSES, num_queries=QUERIES,
        d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_layers=2, decoder_layers=3, **options,
    )  # fmt: skip
    network = spread(randomized(DetrForObjectDetection(config)))
    node = {"name": "detr", "backbone": {"name": "resnet", "depth": 18, "norm": "frozen"}, **SMALL}
    return network, parts.make("models", node, classes=CLASSES, dtype="float32")


@torch.no_grad()
def spread(network):
    """Let the answers of the queries differ: with random weights all are alike."""
    network.model.query_position_embeddings.weight.mul_(10)
    return network


def variables_of(network, model, family):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    tensors = {name: tensor for name, tensor in tensors_of(network).items() if "num_batches" not in name}
    return weights.from_torchvision(huggingface.renamed(tensors, family), shapes)


def extents(sizes):
    return np.array([[0, 0, width, height] for height, width in sizes], np.float32)


def test_forward():
    network, model = detr()
    images, sizes = photos(SIZE), [SIZE, (70, 101)]
    mask = np.zeros((2, *SIZE), np.int64)
    for one, (height, width), image in zip(mask, sizes, images):
        one[:height, :width] = 1
        image[one == 0] = 0
    with torch.no_grad():
        theirs = network.double()(
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2).double(), pixel_mask=torch.from_numpy(mask)
        )
    variables = variables_of(network, model, "detr")
    ours, _ = jax.jit(functools.partial(model.calls["queries"], train=False))(variables, images, extents(sizes))
    close(ours["query_logits"], theirs.logits)
    close(ours["query_boxes"], theirs.pred_boxes)
    assert np.ptp(theirs.pred_boxes.numpy(), axis=1).min() > 0.01, "the queries should differ"
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == counted


def close(ours, theirs, tolerance=1e-4):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def answers(layers, classes, seed=0):
    """Random scores and boxes of every layer, and truth of three images: the second without any box."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, layers, QUERIES, classes)).astype(np.float32) * 2
    boxes = rng.uniform(0.2, 0.6, (3, layers, QUERIES, 4)).astype(np.float32)
    counts = (ROWS, 0, 2)
    truth = {
        "boxes": rng.uniform(0.2, 0.6, (3, ROWS, 4)).astype(np.float32),
        "classes": rng.integers(0, CLASSES, (3, ROWS)).astype(np.int32),
        "valid": np.arange(ROWS) < np.array(counts)[:, None],
    }
    return logits, boxes, truth, counts


def targets_of(truth, counts):
    return [
        {"class_labels": torch.from_numpy(c[:n]).long(), "boxes": torch.from_numpy(b[:n])}
        for c, b, n in zip(truth["classes"], truth["boxes"], counts)
    ]


def pairs(owner):
    """(query, object) of one layer, as transformers' matcher gives them."""
    query = np.flatnonzero(owner != BACKGROUND)
    return query, owner[query]


def both(logits, boxes, truth, scores):
    """Our pairs and terms for every layer."""
    costs = set_prediction.SCORES[scores][0]
    matched = functools.partial(set_prediction.match, scores=scores, costs=costs)
    owner = jax.jit(jax.vmap(matched))(logits, boxes, truth)
    real = np.ones((len(logits), QUERIES), bool)
    terms_of = functools.partial(set_prediction.set_loss, scores=scores, no_object=0.1, gamma=1.5)
    terms = jax.jit(terms_of)(logits, boxes, owner, real, truth)
    return np.asarray(owner), terms


def test_pairs_and_losses_of_all_layers():
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    logits, boxes, truth, counts = answers(3, CLASSES + 1)
    owner, terms = both(logits, boxes, truth, "softmax")
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes"])
    targets = targets_of(truth, counts)
    for layer in range(3):
        given = {"logits": torch.from_numpy(logits[:, layer]), "pred_boxes": torch.from_numpy(boxes[:, layer])}
        for mine, (query, number) in zip(owner[:, layer], matcher(given, targets)):
            np.testing.assert_array_equal(pairs(mine), (query, number))
        theirs = criterion(given, targets)
        for name, their in {"class": "loss_ce", "box": "loss_bbox", "overlap": "loss_giou"}.items():
            np.testing.assert_allclose(terms[name][layer], theirs[their], rtol=1e-4)


RT_SMALL = {"width": 32, "heads": 4, "hidden": 48, "encoder_width": 24, "encoder_hidden": 40, "expansion": 0.5}


def rt_detr(small=True, depth=18, **options):
    """Both networks with the same random weights; transformers' one evaluates."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    torch.manual_seed(0)
    basic = {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"} if depth < 50 else {}
    body = RTDetrResNetConfig(depths={18: [2] * 4, 50: [3, 4, 6, 3]}[depth], out_indices=[2, 3, 4], **basic)
    sizes = {
        "d_model": 32, "encoder_hidden_dim": 24, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_in_channels": [24] * 3,
    }  # fmt: skip
    config = RTDetrV2Config(
        backbone_config=body, num_labels=CLASSES, num_queries=QUERIES, decoder_layers=3, hidden_expansion=0.5,
        encoder_in_channels=[128, 256, 512], **(sizes if small else {}), **options,
    )  # fmt: skip
    network = randomized(untied(RTDetrV2ForObjectDetection(config)))
    for name, tensor in network.state_dict().items():
        if name.endswith("n_points_scale"):
            tensor.fill_(1 / 4)
        elif tensor.ndim == 4:  # transformers draws them so small that nothing of the image comes through
            torch.nn.init.kaiming_normal_(tensor)
    backbone = {"name": "resnet", "depth": depth, "stem": "deep", "shortcut": "pool", "norm": "frozen"}
    node = {"name": "rt_detr", "backbone": backbone, "decoder": 3, "expansion": 0.5, "queries": QUERIES}
    node |= RT_SMALL if small else {}
    return network, parts.make("models", node, classes=CLASSES, dtype="float32")


def untied(network):
    """Give every layer heads of its own, as published files have them; those of the whole are the decoder's."""
    decoder = network.model.decoder
    for heads in (decoder.class_embed, decoder.bbox_embed):
        for i, head in enumerate(heads):
            heads[i] = copy.deepcopy(head)
    network.class_embed, network.bbox_embed = decoder.class_embed, decoder.bbox_embed
    return network


@torch.no_grad()
def answered(network, seed=0):
    """One image, and what torch answers once the places differ: with random weights all see nearly the same."""
    images, seen = 8 * photos(SIZE, 1, seed), []
    layer, head = network.model.enc_output[0], network.model.enc_score_head
    given = torch.from_numpy(images).permute(0, 3, 1, 2).to(layer.weight.dtype)
    hooks = [one.register_forward_hook(lambda module, inputs, output: seen.append(output)) for one in (layer, head)]
    network(given)
    layer.bias.sub_(seen[0].mean((0, 1)))
    found = network(given)
    best = seen[3].max(-1).values.topk(QUERIES + 1).values
    assert (best[:, :-1] - best[:, 1:]).min() > 1e-4, "another seed is needed: the order hangs on rounding"
    for hook in hooks:
        hook.remove()
    return images, found


@pytest.mark.parametrize(("small", "depth"), [(True, 18), (True, 50), (False, 18)])
def test_rt_detr_forward(small, depth):
    network, model = rt_detr(small, depth)
    images, theirs = answered(network.double())
    variables = variables_of(network, model, "rt_detr_v2")
    ours, _ = jax.jit(functools.partial(model.apply, train=False, key=None))(variables, images)
    logits, boxes = set_prediction.layers_of(ours)
    close(logits[:, 1:], theirs.intermediate_logits)
    close(boxes[:, 1:], theirs.intermediate_reference_points)
    close(boxes[:, 0], torch.sigmoid(theirs.init_reference_points))
    assert np.ptp(theirs.pred_boxes.numpy(), axis=1).min() > 0.01, "the queries should differ"
    if not small:
        counted = sum(parameter.numel() for parameter in network.parameters())
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == counted


NAMES = {"class": "loss_vfl", "box": "loss_bbox", "overlap": "loss_giou"}


def test_rt_detr_pairs_and_losses_of_all_layers():
    from transformers import RTDetrV2Config
    from transformers.loss.loss_rt_detr import RTDetrLoss

    logits, boxes, truth, counts = answers(3, CLASSES, seed=1)
    owner, terms = both(logits, boxes, truth, "varifocal")
    criterion = RTDetrLoss(RTDetrV2Config(num_labels=CLASSES))
    targets = targets_of(truth, counts)
    for layer in range(3):
        given = {"logits": torch.from_numpy(logits[:, layer]), "pred_boxes": torch.from_numpy(boxes[:, layer])}
        for mine, (query, number) in zip(owner[:, layer], criterion.matcher(given, targets)):
            np.testing.assert_array_equal(pairs(mine), (query, number))
        theirs = criterion(given, targets)
        for weight, (name, their) in zip(set_prediction.SCORES["varifocal"][1], NAMES.items()):
            np.testing.assert_allclose(weight * terms[name][layer], theirs[their], rtol=1e-4)


def test_rt_detr_in_training(monkeypatch):
    """All terms of a training step with queries of the truth, whose noise is transformers'.

    In float32: its mask is, and torch's attention takes one for queries in float64 without a word, and wrongly.
    """
    from transformers.models.rt_detr_v2 import modeling_rt_detr_v2 as theirs

    seen = {}

    def noise(class_embed, make=theirs.get_contrastive_denoising_training_group, **options):
        def embed(classes):
            seen["classes"] = classes
            return class_embed(classes)

        found = make(class_embed=embed, **options)
        seen["boxes"] = torch.sigmoid(found[1])
        return found

    monkeypatch.setattr(theirs, "get_contrastive_denoising_training_group", noise)
    network, model = rt_detr(num_denoising=6)
    images, _ = answered(network)
    images = np.concatenate([images, images[:, ::-1]])
    _, _, truth, _ = answers(1, CLASSES)
    truth = {name: value[:2] for name, value in truth.items()} | {"valid": np.arange(ROWS)[None] < [[2], [2]]}
    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = network.train()(given, labels=targets_of(truth, (2, 2))).loss_dict
    slots = np.arange(12)
    denoising = {
        "classes": seen["classes"].numpy(),
        "boxes": seen["boxes"].numpy().astype(np.float32),
        "group": np.tile(slots // 4, (2, 1)),
    }
    owner = np.tile(np.where(slots % 4 < 2, slots % 2, BACKGROUND), (2, 1))
    terms_of = functools.partial(set_prediction.set_loss, scores="varifocal", no_object=0.1, gamma=1.5)

    @jax.jit
    def run(variables, denoising):
        outputs, _ = model.calls["queries"](variables, images, None, denoising=denoising, train=True)
        logits, boxes = set_prediction.layers_of(outputs)
        match = functools.partial(set_prediction.match, scores="varifocal", costs=(2, 5, 2))
        found = terms_of(logits, boxes, jax.vmap(match)(logits, boxes, truth), np.ones((2, QUERIES), bool), truth)
        given = outputs["denoising_logits"], outputs["denoising_boxes"]
        owners = jnp.broadcast_to(owner[:, None], given[0].shape[:3])
        return found, terms_of(*given, owners, np.ones((2, 12), bool), truth)

    ours = run(variables_of(network.eval(), model, "rt_detr_v2"), denoising)
    for weight, (name, their) in zip((1, 5, 2), NAMES.items()):
        aux = [expected[f"{their}_aux_{i}"].item() for i in (2, 0, 1)]  # the last of theirs is the encoder's
        np.testing.assert_allclose(weight * ours[0][name], [*aux, expected[their].item()], rtol=5e-4)
        dn = [expected[f"{their}_dn_{i}"].item() for i in range(3)]
        np.testing.assert_allclose(weight * ours[1][name], dn, rtol=5e-4)
