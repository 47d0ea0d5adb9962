"""Parameter trees by path: one way to name a parameter, and to choose parameters by regular expressions.

The path of a parameter is its keys joined by "/", as in "backbone/body/layer1/0/conv1/kernel". Sharding rules,
learning-rate factors, weight decay and freezing all choose parameters by such expressions (`re.search`).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from mapjax.errors import UserError, near


def path_name(path: Sequence[Any]) -> str:
    """Join the keys of a jax key path by "/"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def paths(tree: PyTree) -> list[str]:
    """List the paths of all leaves, in the order of jax.tree.leaves."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def map_with_path(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Map `function(path, leaf, *others)` over the leaves."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def below(name: str, expression: str) -> str:
    """Give an expression over the paths of a tree for where that tree hangs below `name` in another one.

    Args:
      expression: it may begin with "^", which is then the root of its own tree.
    """
    inner = expression[1:] if expression.startswith("^") else f".*?(?:{expression})"
    return f"(?<![^/]){name}/{inner}"  # at the beginning of a key; the result may be put below another name


def first_match(tree: PyTree, rules: Sequence[tuple[str, Any]], default: Any, key: str) -> PyTree:
    """Give every leaf the value of the first rule whose expression is found in its path.

    Args:
      tree: parameters.
      rules: (regular expression, value), in order.
      default: the value where no rule matches.
      key: the config key the rules come from, for the message.

    Raises:
      UserError: an expression that is not valid, or matches no parameter at all (most likely misspelt).
    """
    known = paths(tree)
    for expression, _ in rules:
        try:
            found = any(re.search(expression, path) for path in known)
        except re.error as error:
            raise UserError(f"{key}: {expression!r} is not a regular expression ({error}).") from error
        if not found:
            tops = {"/".join(path.split("/")[:2]) for path in known}
            raise UserError(
                f"{key}: {expression!r} matches no parameter.{near(expression, tops)} {key}=() leaves them out."
            )

    def value(path: str, _: Any) -> Any:
        return next((value for expression, value in rules if re.search(expression, path)), default)

    return map_with_path(value, tree)


def count(tree: PyTree) -> int:
    """Count the numbers in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
