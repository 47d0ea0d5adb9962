"""The judge of kernels and steps finds what is wrong, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.check import judge, steps
from mapjax.check.kernels import KERNELS
from mapjax.task import State

QUICK = (
    "convolution 1×1",
    "suppression",
    "matching",
    "maps back to pixels",
    "cross-entropy",
    "confusion of label maps",
)


def test_sound_kernels_are_right():
    found = list(judge.verdicts(large=False, names=QUICK))
    assert len(found) == judge.count(QUICK) == 3 * 3 + 3
    assert all(one.right and one.repeats for one in found)
    by_name = {(one.kernel, one.precision): one for one in found}
    assert 0 < by_name["convolution 1×1", "float32, full products"].forward < 1e-6
    assert 1e-4 < by_name["convolution 1×1", "bfloat16"].forward < 1e-2, "bfloat16 is less precise"


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (lambda x, k: jnp.einsum("bhwc,xycd->bhwd", x, k) * 1.01, {"float32", "float32, full products"}),
        (lambda x, k: jnp.einsum("bhwc,xycd->bhwd", x, k) * jnp.nan, set(judge.TOLERANCES)),
        (lambda x, k: jnp.round(jnp.einsum("bhwc,xycd->bhwd", x, k) * 1e4) / 1e4, set(judge.TOLERANCES)),  # no gradient
    ],
)
def test_a_wrong_kernel_is_found(broken, wrong, monkeypatch):
    monkeypatch.setitem(KERNELS, "convolution 1×1", KERNELS["convolution 1×1"]._replace(function=broken))
    found = judge.verdicts(large=False, names=["convolution 1×1"])
    assert {one.precision for one in found if not one.right} == wrong


def test_every_kernel_takes_its_arrays():
    for large in (False, True):
        for name, kernel in KERNELS.items():
            if large and "mean field" in name:
                continue  # as large as it comes
            floats = kernel.floats(np.random.default_rng(0), large)
            assert judge._weights(kernel, floats, np.random.default_rng(0))


def test_two_steps_repeat_and_resume():
    [one] = steps.verdicts(["classify"])
    assert one.right and one.repeats and one.resumes and one.difference == 0


def test_other_losses_are_found(monkeypatch):
    state, calls = State(jnp.int32(1), {"fc": jnp.ones(3)}, {}, (), None), []

    def drifting(config, mesh):
        calls.append(mesh)
        return [{"loss": 2.0 * (1 + 0.01 * len(calls))}], [state]

    monkeypatch.setattr(steps, "_run", drifting)
    monkeypatch.setattr(steps, "_resume", lambda config, mesh, saved: saved)
    [one] = steps.verdicts(["classify"])
    assert not one.right and not one.repeats and one.resumes
    assert one.difference == pytest.approx(0.02 / 1.03, rel=0.1)
