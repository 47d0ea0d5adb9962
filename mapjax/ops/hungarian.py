"""Assignment of least total cost between truths and queries, with fixed shapes (Kuhn 1955; Jonker & Volgenant 1987).

The trips of the loops depend on the costs: under a sharded batch this belongs under `shard.per_example`, and under
`vmap` they are those of the slowest, so that many matrices in one call (all layers of a decoder) cost hardly more.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mapjax.ops.matching import BACKGROUND

LARGEST = 1e30  # a cost from here on, or none that is a number, is of a pair that is avoided


def assign(cost: Float[Array, "m n"], valid: Bool[Array, "m"]) -> Int[Array, "n"]:
    """Row that each column is assigned to, BACKGROUND where none is: the rows' total cost is the least there is.

    A row that is not valid costs no turn. Where more rows are valid than there are columns, the first n count. Of pairs
    whose cost is not finite as few are taken as can be.

    Args:
      cost: of m rows (truths) and n columns (queries).
      valid: which rows are real; there may be none.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import hungarian
      >>> hungarian.assign(jnp.array([[1.0, 2, 9], [1.0, 5, 9]]), jnp.array([True, True])).tolist()
      [1, 0, -1]
    """
    rows, columns = cost.shape
    if rows == 0:
        return jnp.full(columns, BACKGROUND)
    valid = valid & (jnp.cumsum(valid) <= columns)
    cost = _finite(cost.astype(jnp.float32), valid)
    # Columns and owners are numbered from 1; column 0 stands for the row that looks for a column, owner 0 for none.
    owner, row_dual = jnp.zeros(columns + 1, jnp.int32), jnp.zeros(rows + 1)

    def place(row, state):
        owner, duals = state
        owner = owner.at[0].set(jnp.where(valid[row], row + 1, 0))
        duals, path, last = _shortest_path(cost, owner, duals)
        return _shift(owner, path, last), duals

    # A turn in which nothing is done takes a TPU as long as any other: those after the last real row are left out.
    end = jnp.max(jnp.where(valid, jnp.arange(1, rows + 1), 0)).astype(jnp.int32)
    owner, _ = jax.lax.fori_loop(jnp.int32(0), end, place, (owner, (row_dual, jnp.zeros(columns + 1))))
    return jnp.where(owner[1:] > 0, owner[1:] - 1, BACKGROUND)


def _finite(cost, valid):
    """Costs of pairs to avoid become larger than what any assignment of the others could save."""
    sound = (jnp.abs(cost) < LARGEST) & valid[:, None]
    low, high = jnp.min(cost, where=sound, initial=LARGEST), jnp.max(cost, where=sound, initial=-LARGEST)
    high = jnp.maximum(high, low)  # without a sound pair all are alike
    return jnp.where(sound, cost, high + (high - low + 1) * len(cost))


def _shortest_path(cost, owner, duals):
    """Grow a tree of least reduced costs from the row at column 0 until a column is free (Dijkstra 1959).

    Returns:
      the new duals of rows and columns, for each column (from 1) the one before it, and the free column.
    """
    columns = cost.shape[1]

    def grows(state):
        return owner[state[-1]] != 0

    def grow(state):
        (row_dual, column_dual), used, least, path, column = state
        used = used.at[column].set(True)
        free = ~used[1:]
        row = owner[column]
        reduced = cost[row - 1] - row_dual[row] - column_dual[1:]
        path = jnp.where(free & (reduced < least), column, path)
        least = jnp.where(free, jnp.minimum(reduced, least), jnp.inf)
        following = jnp.argmin(least).astype(jnp.int32)
        step = least[following]
        # The rows of the tree; what is not in it adds to a row that there is not.
        row_dual = row_dual.at[jnp.where(used, owner, len(row_dual))].add(step, mode="drop")
        column_dual = jnp.where(used, column_dual - step, column_dual)
        return (row_dual, column_dual), used, least - step, path, following + 1

    start = (duals, jnp.zeros(columns + 1, bool), jnp.full(columns, jnp.inf), jnp.zeros(columns, jnp.int32))
    duals, _, _, path, last = jax.lax.while_loop(grows, grow, (*start, jnp.int32(0)))
    return duals, path, last


def _shift(owner, path, last):
    """Give each column on the path to the owner of the one before it, so that the free column is taken."""

    def move(state):
        owner, column = state
        before = path[column - 1]
        return owner.at[column].set(owner[before]), before

    return jax.lax.while_loop(lambda state: state[1] != 0, move, (owner, last))[0]
