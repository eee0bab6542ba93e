"""The state of training: step, parameters and optimiser state, as one pytree.

Nothing of it is ever whole on one device: shapes come first, then shardings,
then one jitted function whose outputs are born where they belong.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import optimizers
from hypergrid_jax.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything a checkpoint holds; data and dropout follow from `step`.

  Attributes:
    step: int32 [], updates made.
    params: nested dict of float32 arrays.
    opt_state: the optimiser's.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState


class Parameters(Protocol):
  """What of a model the state depends on."""

  abstract_params: Params
  logical_axes: Params

  def init(self, key: jax.Array) -> Params:
    """Draws fresh parameters."""


def _fresh(params: Params, tx: optax.GradientTransformation) -> TrainState:
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def abstract_state(
  model: Parameters, tx: optax.GradientTransformation
) -> TrainState:
  """Returns shapes and dtypes of the state; allocates nothing."""
  return jax.eval_shape(lambda p: _fresh(p, tx), model.abstract_params)


def state_shardings(
  model: Parameters,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  rules: partitioning.Rules = partitioning.DEFAULT_RULES,
) -> TrainState:
  """Returns the sharding of every leaf; moments lie with their parameters.

  Raises:
    UserError: an axis has no rule or does not divide; see
      `partitioning.partition_spec`.
  """
  abstract = abstract_state(model, tx)
  axes = TrainState(
    step=(),
    params=model.logical_axes,
    opt_state=optimizers.state_axes(
      abstract.opt_state, model.abstract_params, model.logical_axes
    ),
  )
  return partitioning.shardings(abstract, axes, mesh, rules)


def sharded_abstract_state(
  model: Parameters,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  rules: partitioning.Rules = partitioning.DEFAULT_RULES,
) -> TrainState:
  """Returns `abstract_state` with shardings: the target of a restore.

  Raises:
    UserError: see `state_shardings`.
  """
  return _sharded(
    abstract_state(model, tx), state_shardings(model, tx, mesh, rules)
  )


def sharded_abstract_params(
  model: Parameters,
  mesh: Mesh,
  rules: partitioning.Rules = partitioning.DEFAULT_RULES,
) -> Params:
  """Returns the parameters of `sharded_abstract_state`; needs no optimiser.

  Raises:
    UserError: see `state_shardings`.
  """
  abstract, axes = model.abstract_params, model.logical_axes
  return _sharded(abstract, partitioning.shardings(abstract, axes, mesh, rules))


def _sharded(abstract, shardings):
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )


def create_state(
  model: Parameters,
  tx: optax.GradientTransformation,
  key: jax.Array,
  mesh: Mesh,
  rules: partitioning.Rules = partitioning.DEFAULT_RULES,
) -> TrainState:
  """Draws a fresh state, every leaf directly in its place on the mesh.

  Args:
    model: draws the parameters.
    tx: the optimiser.
    key: the same key gives the same parameters on every mesh.
    mesh: the devices.
    rules: from logical axes to mesh axes.

  Raises:
    UserError: see `state_shardings`.
  """
  make = jax.jit(
    lambda key: _fresh(model.init(key), tx),
    out_shardings=state_shardings(model, tx, mesh, rules),
  )
  return make(key)
