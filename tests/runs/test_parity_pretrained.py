"""Published networks answer a photo as torchvision's do, from a file of random weights (run: pytest -m parity)."""

import pathlib

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.optimize

from mapjax.engine import evaluate
from mapjax.ops.resize import bilinear
from mapjax.runs import predict, pretrained, sources
from mapjax.weights import class_names

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
datasets = pytest.importorskip("sklearn.datasets")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """The Summer Palace, 427×640, in a file without loss."""
    path = tmp_path_factory.mktemp("photo") / "china.png"
    PIL.Image.fromarray(datasets.load_sample_image("china.jpg")).save(path)
    return path


def answers(network, name, photo, **overrides):
    """What ours says of the photo with torchvision's weights; the file is called as the published one."""
    file = pathlib.Path(photo).with_name(f"{name}.pth")
    torch.save(network.state_dict(), file)
    loaded = pretrained.load(str(file), overrides=overrides)
    transform = sources.make_transform(loaded.config, augment=False)
    answer = evaluate.make_answer(loaded.task)
    found = next(predict.predict(answer, loaded.variables, [photo], transform, batch=1))
    batch = predict.batch_of([found.image], transform)
    return found, {key: value[0] for key, value in batch.items()}


@torch.no_grad()
def randomized(network):
    """Batch statistics and scales that are not what layers begin with."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            for tensor in (module.running_var, module.weight):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)
            for tensor in (module.running_mean, module.bias):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()


@pytest.mark.parametrize("kind", ["mobilenet_v3_small.IMAGENET1K_V1", "efficientnet_b0.IMAGENET1K_V1"])
def test_classifier(kind, photo):
    torch.manual_seed(0)
    name, _, weights = kind.partition(".")
    network = randomized(torchvision.models.get_model(name, weights=None))
    with torch.no_grad():
        seen = torchvision.models.get_model_weights(name)[weights].transforms()(PIL.Image.open(photo))
        network.classifier[-1].weight.mul_(2 / network(seen[None]).std())
        theirs = network(seen[None]).softmax(-1)[0].numpy()
    ours = answers(network, kind, photo)[0].result["probabilities"]
    assert theirs.max() > 0.01  # 1,000 classes are told apart
    assert ours.argmax() == theirs.argmax() and np.abs(ours - theirs).max() <= 0.01 * theirs.max()


def test_segmenter(photo):
    torch.manual_seed(0)
    kind = "lraspp_mobilenet_v3_large.COCO_WITH_VOC_LABELS_V1"
    build = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    network = randomized(build(weights=None, weights_backbone=None, num_classes=21))
    weights = torchvision.models.get_model_weights("lraspp_mobilenet_v3_large").COCO_WITH_VOC_LABELS_V1
    with torch.no_grad():
        theirs = network(weights.transforms()(PIL.Image.open(photo))[None])["out"][0].permute(1, 2, 0).numpy()
    height, width = theirs.shape[:2]
    logits = answers(network, kind, photo)[0].result["map_logits"]
    ours = bilinear(jnp.asarray(logits)[None], (logits.shape[0] * 8, logits.shape[1] * 8))[0, :height, :width]
    assert np.abs(ours - theirs).max() <= 0.05 * np.ptp(theirs)
    assert (np.argmax(ours, -1) == theirs.argmax(-1)).mean() > 0.98


def published(name):
    """A detector as torchvision builds it for COCO_V1, whose frozen norms it has only where it downloads weights."""
    from torchvision.models.detection import anchor_utils, faster_rcnn
    from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(0)
    if name == "fasterrcnn_resnet50_fpn":
        body = randomized(torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d))
        network = faster_rcnn.FasterRCNN(_resnet_fpn_extractor(body, 3), num_classes=91)
        faster_rcnn.overwrite_eps(network, 0.0)
        return network
    body = randomized(torchvision.models.mobilenet_v3_large(weights=None, norm_layer=FrozenBatchNorm2d))
    sizes = ((32, 64, 128, 256, 512),) * 3
    options = {"min_size": 320, "max_size": 640, "rpn_score_thresh": 0.05}
    options |= {"rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    options["rpn_anchor_generator"] = anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    return faster_rcnn.FasterRCNN(_mobilenet_extractor(body, True, 3), 91, **options)


@torch.no_grad()
def detector(name, image):
    """A detector with random weights: branches that are small beside the trunk, and answers that differ on an image."""
    network = published(name).eval()
    for part, module in network.named_modules():
        if part.endswith("bn3"):
            module.weight.mul_(0.2)
    seen = []

    def listened(layer):
        seen.clear()
        hook = layer.register_forward_hook(lambda module, inputs, outputs: seen.append((inputs[0], outputs)))
        network([image])
        hook.remove()
        return seen

    for layer, deviation in ((network.rpn.head.cls_logits, 2.0), (network.rpn.head.bbox_pred, 0.3)):
        outputs = [found[0].flatten(1) for _, found in listened(layer)]  # of each level: of each anchor, its places
        if "mobilenet" not in name:
            layer.weight.mul_(deviation / outputs[-1].std())
            continue
        places = torch.cat(outputs, 1)  # its anchors differ by more than its places do: centred, no ties decide
        mean = places.mean(1)
        scale = deviation / (places - mean[:, None]).std()
        layer.weight.mul_(scale)
        layer.bias.copy_((layer.bias - mean) * scale)
    predictor = network.roi_heads.box_predictor
    given = listened(predictor.cls_score)[0][0]
    mean = given.mean(0)
    _, deviations, directions = torch.linalg.svd(given - mean, full_matrices=False)
    whitened = directions[:8] / deviations[:8, None] * len(given) ** 0.5  # so that many classes are seen
    for layer, deviation in ((predictor.cls_score, 3.0), (predictor.bbox_pred, 0.5)):
        layer.weight.copy_(torch.randn(len(layer.weight), 8) @ whitened * deviation / 8**0.5)
        layer.bias.copy_(-layer.weight @ mean)
    return network


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detector(name, photo):
    """On our pixels, which are rounded to levels, the answers are torchvision's; on its own all but a few."""
    image = torch.from_numpy(np.array(PIL.Image.open(photo))).permute(2, 0, 1) / 255
    network = detector(name, image)
    found, example = answers(network, f"{name}.COCO_V1", photo)
    ours = {key: found.result[key][found.result["valid"]] for key in ("boxes", "scores", "classes")}
    scale = np.diag(example["matrix"])[:2]
    height, width = (round(side * by) for side, by in zip(image.shape[1:], scale[::-1]))
    seen = torch.from_numpy(example["image"][:height, :width]).permute(2, 0, 1) / 255
    with torch.no_grad():
        on_theirs = network([image])[0]
        network.transform.min_size, network.transform.max_size = (min(height, width),), max(height, width)
        on_ours = network([seen])[0]
    on_ours["boxes"] /= torch.tensor([*scale, *scale])
    assert len(set(ours["classes"].tolist())) > 5
    share, boxes, scores = agreement(ours, on_ours)
    assert share == 1 and boxes <= 0.05 and scores <= 1e-3
    share, boxes, scores = agreement(ours, on_theirs)
    assert share >= 0.95 and scores <= 1e-2


def agreement(ours, theirs):
    """The share of detections that are alike, to a pixel, and how far apart those are."""
    known = class_names.read("coco")
    theirs = {key: value.numpy() for key, value in theirs.items()}
    named = np.isin(theirs["labels"], [int(number) for number in known.ids])
    theirs = {key: value[named] for key, value in theirs.items()}
    numbers = np.array([int(known.ids[k]) for k in ours["classes"]])
    apart = np.abs(ours["boxes"][:, None] - theirs["boxes"]).max(-1)
    apart[numbers[:, None] != theirs["labels"]] = 1e6
    rows, columns = scipy.optimize.linear_sum_assignment(apart)
    alike = apart[rows, columns] <= 1
    scores = np.abs(ours["scores"][rows] - theirs["scores"][columns])[alike]
    assert len(numbers) > 30
    return alike.sum() / max(len(numbers), len(theirs["labels"])), apart[rows, columns][alike].max(), scores.max()
