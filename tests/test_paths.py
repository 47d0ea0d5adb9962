import re

import jax.numpy as jnp
import pytest

from mapjax import paths
from mapjax.errors import UserError

PARAMS = {"body": {"conv": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}, "head": {"kernel": jnp.zeros(5)}}


def test_paths_follow_the_leaves():
    assert paths.paths(PARAMS) == ["body/conv/bias", "body/conv/kernel", "head/kernel"]
    assert paths.count(PARAMS) == 13


def test_first_match_wins():
    found = paths.first_match(PARAMS, [("^body", 1), ("kernel$", 2)], 0, "rules")
    assert found == {"body": {"conv": {"kernel": 1, "bias": 1}}, "head": {"kernel": 2}}


def test_an_expression_that_matches_nothing_is_a_mistake():
    with pytest.raises(UserError, match=r"optimizer.freeze: 'bdy/conv' matches no parameter. Did you mean 'body/conv'"):
        paths.first_match(PARAMS, [("bdy/conv", 1)], 0, "optimizer.freeze")
    with pytest.raises(UserError, match="is not a regular expression"):
        paths.first_match(PARAMS, [("(", 1)], 0, "optimizer.freeze")


@pytest.mark.parametrize(
    ("expression", "found", "not_found"),
    [
        ("^fc/", ["unary/net/fc/kernel"], ["unary/net/body/fc/kernel", "unary/fc/kernel", "net/fc/kernel"]),
        ("conv/kernel$", ["unary/net/conv/kernel", "ema/unary/net/a/conv/kernel"], ["unary/nets/conv/kernel"]),
        ("a/|b/", ["unary/net/b/kernel"], ["a/unary/net/kernel", "subunary/net/b/kernel"]),
    ],
)
def test_an_expression_of_a_tree_below_others(expression, found, not_found):
    below = paths.below("unary", paths.below("net", expression))
    assert all(re.search(below, path) for path in found) and not any(re.search(below, path) for path in not_found)
