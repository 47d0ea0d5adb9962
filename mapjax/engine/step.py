"""One train step for every task.

    state, scalars = step(state, batch)        one jit: loss, gradients, update, moving average

The key of step n is fold_in(seed, n) and batch n is a function of (seed, n), so the state and its step number
are all there is to save.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Context, Scalars, State, Task

Step = Callable[[State, Batch], tuple[State, Scalars]]


def init_state(task: Task, tx: optax.GradientTransformation, batch: Batch, *, seed: int, ema: float) -> State:
    """Make the state of step 0.

    Args:
      task: gives the variables.
      tx: optimizer.
      batch: any batch; only its shapes matter.
      seed: the same seed gives the same parameters.
      ema: decay of the moving average of the parameters; 0 keeps none.
    """
    variables = task.init(jax.random.key(seed), batch)
    params = variables["params"]
    # A copy: the state is donated to the step, and one buffer cannot be donated twice.
    average = jax.tree.map(jnp.copy, params) if ema else None
    return State(jnp.zeros((), jnp.int32), params, variables["stats"], tx.init(params), average)


def draw_state(init: Callable[[Batch], State], batch: Batch, places: PyTree | None = None) -> State:
    """Run `init` in one jit on a blank batch of the given shapes, each leaf put where `places` says."""

    def from_blank() -> State:
        return init(jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), batch))

    # Drawing the parameters runs once, so XLA need not optimise it: on a CPU that compiles 4 times sooner.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(from_blank, out_shardings=places, compiler_options=options)()


def make_step(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    frozen: PyTree | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
    places: PyTree | None = None,
    skip_non_finite: bool = False,
    total: int = 1,
) -> Step:
    """Make the train step of a task; jit it with the state donated.

    Args:
      task: its loss is minimised.
      tx: optimizer.
      seed: of the keys; step n uses fold_in(seed, n).
      frozen: tree of bool over the parameters; no gradient is computed for these.
      accumulate: the batch is taken in this many parts, and the gradients averaged.
      ema: decay of the moving average; it starts low and reaches this value after about 10 / (1 - ema) steps.
      places: where the parameters are, on a mesh with `fsdp`: each is gathered where it is used, and its gradient
        summed and scattered.
      skip_non_finite: a step whose losses or gradient norm are not finite changes nothing but the step number.
      total: steps of the whole training, for the context's `progress`.

    Returns:
      step(state, batch) -> (state, scalars): the losses by name and `gradient_norm`.
    """

    def loss_of(params: PyTree, stats: PyTree, batch: Batch, context: Context):
        if frozen is not None:
            params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)
        if places is not None:
            params = jax.lax.with_sharding_constraint(params, shard.gathered(places))
        return task.loss({"params": params, "stats": stats}, batch, context)

    def gradients(state: State, batch: Batch, key: jax.Array):
        context = Context(key, state.step, state.step / total, state.ema)
        derive = jax.value_and_grad(loss_of, has_aux=True)
        (_, (stats, scalars)), grads = derive(state.params, state.stats, batch, context)
        if places is not None:
            grads = jax.lax.with_sharding_constraint(grads, places)
        return grads, stats, scalars

    def accumulated(state: State, batch: Batch, key: jax.Array):
        # Part i is every accumulate-th example, so a batch sharded over devices stays where it is.
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), batch)

        def body(carry: tuple[PyTree, PyTree], part: tuple[Batch, jax.Array]):
            stats, total = carry
            grads, stats, scalars = gradients(state._replace(stats=stats), *part)
            return (stats, jax.tree.map(jnp.add, total, grads)), scalars

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (stats, total), scalars = jax.lax.scan(body, (state.stats, zeros), (parts, jax.random.split(key, accumulate)))
        mean = jax.tree.map(lambda x: x / accumulate, total)
        return mean, stats, jax.tree.map(lambda x: x.mean(0), scalars)

    def step(state: State, batch: Batch) -> tuple[State, Scalars]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, stats, scalars = (accumulated if accumulate > 1 else gradients)(state, batch, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average is not None:
            decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
        scalars = {**scalars, "gradient_norm": optax.tree.norm(grads)}
        after = State(state.step + 1, params, stats, opt, average)
        return (_where_finite(scalars, after, state) if skip_non_finite else after), scalars

    return step


def _where_finite(scalars: Scalars, after: State, before: State) -> State:
    """Give the state after the step where all scalars are finite, else the one before it with the step counted."""
    finite = jnp.stack([jnp.isfinite(value).all() for value in scalars.values()]).all()
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, before._replace(step=after.step))
