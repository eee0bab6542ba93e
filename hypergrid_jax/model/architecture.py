"""A T5 with a method, as pure functions of a parameter pytree.

NNX defines, annotates and initialises the modules; everything that is
transformed (jit, grad, sharding, checkpoints) works on plain nested dicts.
"""

from flax import nnx
import jax

from hypergrid_jax import errors, trees, types
from hypergrid_jax.model import extension, t5
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning

# A plain parameter that has one of these is used in the activations' dtype.
_KERNEL_AXES = frozenset(('joined_kv', 'mlp', 'vocab'))


class Model:
  """One architecture: its parameter tree, and modules bound to parameters.

  Attributes:
    config: sizes of the T5.
    num_tasks: task ids are in [0, num_tasks).
    abstract_params: nested dict of `jax.ShapeDtypeStruct`.
    logical_axes: the same tree, with a tuple of axis names per leaf.
    plain: paths of the parameters that a plain T5 of the same size has.
    added: paths such as 'encoder/condition/wo/row' of the parameters that the
      method has and a plain T5 of the same size lacks.
  """

  def __init__(
    self,
    config: T5Config,
    points: extension.ExtensionPoints | None = None,
    *,
    num_tasks: int = 1,
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
  ):
    points = extension.ExtensionPoints() if points is None else points
    self.config = config
    self.num_tasks = num_tasks
    self._points = points
    self._rules = rules
    self._graph, self._state = nnx.split(self._abstract(points))
    variables = _by_path(self._state)
    self.abstract_params = trees.unflatten(
      {path: v.get_raw_value() for path, v in variables.items()}
    )
    self.logical_axes = trees.unflatten(
      {path: v.get_metadata()['logical_axes'] for path, v in variables.items()}
    )
    plain = nnx.split(self._abstract(extension.ExtensionPoints()))[1]
    self.plain = frozenset(_by_path(plain))
    self.added = frozenset(variables) - self.plain

  def init(self, key: jax.Array) -> types.Params:
    """Draws fresh parameters; pure, to be jitted with output shardings."""
    rngs = nnx.Rngs(params=key, method=jax.random.fold_in(key, 1))
    variables = _by_path(nnx.state(self._build(self._points, rngs)))
    return trees.unflatten(
      {path: variable.get_raw_value() for path, variable in variables.items()}
    )

  def bind(self, params: types.Params) -> t5.T5:
    """Returns the module with these parameters, to be called under jit."""
    leaves = trees.flatten(params)
    state = nnx.from_flat_state(
      (path, variable.replace(leaves[_public(path)]))
      for path, variable in nnx.to_flat_state(self._state)
    )
    return nnx.merge(self._graph, state)

  def cast_kernels(self, params: types.Params) -> types.Params:
    """Casts T5's kernels and token table to the dtype of the activations.

    Every product casts them by itself; a loop that uses them many times, such
    as decoding, has the same numbers when they are cast once, before it. All
    other parameters are used in float32 and stay so.

    Args:
      params: all of the model's.
    """
    leaves = trees.flatten(params)
    axes = trees.flatten(self.logical_axes, is_leaf=trees.is_axes)
    for path in self.plain:
      if not _KERNEL_AXES.isdisjoint(axes[path]):
        leaves[path] = leaves[path].astype(self.config.dtype)
    return trees.unflatten(leaves)

  def _build(self, points, rngs):
    return t5.T5(
      self.config,
      points,
      num_tasks=self.num_tasks,
      rules=self._rules,
      rngs=rngs,
    )

  def _abstract(self, points):
    return nnx.eval_shape(
      lambda: self._build(points, nnx.Rngs(params=0, method=1))
    )


def _by_path(state: nnx.State) -> dict[str, nnx.Variable]:
  """Returns the variables by the path that checkpoints and users know.

  Raises:
    UserError: two methods have parameters of the same path.
  """
  variables, paths = {}, {}
  for path, variable in nnx.to_flat_state(state):
    public = _public(path)
    if public in variables:
      raise errors.UserError(
        f'Methods {paths[public][2]!r} and {path[2]!r} both have parameters'
        f' named {public}, so they cannot be combined.'
      )
    variables[public], paths[public] = variable, path
  return variables


def _public(path: tuple) -> str:
  """Joins a variable's path, without the method's name below `condition`.

  So a method's parameters have the same paths alone and beside others.
  """
  if len(path) > 3 and path[1] == 'condition':
    path = (*path[:2], *path[3:])
  return '/'.join(map(str, path))
