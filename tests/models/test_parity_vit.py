"""ViT equals torchvision's, given its weights (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import as_torch, error_of_logits, errors_of_gradients, filled, photos, randomized, record, tensors_of

from mapjax.models.backbones import vit

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

SIZE = 96
TINY = {"width": 48, "depth": 3, "heads": 4, "mlp": 96}
SMALL = {"hidden_dim": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536}


def tiny(size=SIZE):
    sizes = {"hidden_dim": 48, "num_layers": 3, "num_heads": 4, "mlp_dim": 96}
    return torchvision.models.VisionTransformer(size, 16, num_classes=10, **sizes)


@pytest.mark.parametrize("patch", [16, 32])
@pytest.mark.parametrize("variant", ["small", "base", "large"])
def test_logits(variant, patch, record_property):
    torch.manual_seed(0)
    options = {"image_size": SIZE, "num_classes": 10}
    if variant == "small":
        network = torchvision.models.VisionTransformer(patch_size=patch, **options, **SMALL)
    else:
        network = getattr(torchvision.models, f"vit_{variant[0]}_{patch}")(**options)
    model = vit.make(variant=variant, patch=patch, image_size=SIZE, classes=10)
    error = error_of_logits(model, randomized(network), photos((SIZE, SIZE)))
    record(record_property, f"vit_{variant[0]}_{patch}", error)
    assert error <= 1e-4


@pytest.mark.parametrize("size", [48, 112, 160])
def test_positions_of_another_size(size, record_property):
    """As torchvision's `interpolate_embeddings` changes a checkpoint, so does our network by itself."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    network, model = randomized(tiny()), vit.make(**TINY, image_size=SIZE, classes=10)
    other = tiny(size).eval()
    other.load_state_dict(interpolate_embeddings(size, 16, dict(network.state_dict())))
    images = photos((size, size))
    variables = filled(model, tensors_of(network), images)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)
    with torch.no_grad():
        expected = other(as_torch(images)).numpy()
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    record(record_property, f"vit_tiny_16 at {size} from {SIZE}", float(error))
    assert error <= 1e-4


def test_attention_weights():
    network, model = randomized(tiny()), vit.make(**TINY, image_size=SIZE, attention=True)
    images = photos((SIZE, SIZE))
    tensors = {name: tensor for name, tensor in tensors_of(network).items() if not name.startswith("heads")}
    variables = filled(model, tensors, images)
    outputs = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0])(variables, images)
    expected = []

    def look(layer, inputs, output):
        x = layer.ln_1(inputs[0])
        expected.append(layer.self_attention(x, x, x, average_attn_weights=False)[1].numpy())

    for layer in network.encoder.layers:
        layer.register_forward_hook(look)
    with torch.no_grad():
        network(as_torch(images))
    np.testing.assert_allclose(outputs["attention"], np.stack(expected, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
def test_gradients(attention, record_property):
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(patch_size=16, image_size=SIZE, num_classes=10, **SMALL)
    model = vit.make(variant="small", image_size=SIZE, attention=attention, classes=10)
    errors = errors_of_gradients(model, randomized(network), photos((SIZE, SIZE), 4), np.arange(4))
    record(record_property, f"vit_s_16 gradients{' with weights' * attention}", max(errors.values()))
    assert max(errors.values()) <= 1e-3, max(errors, key=errors.get)
