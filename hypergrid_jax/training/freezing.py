"""Which parameters train: presets by name, or regular expressions.

The result is a mapping from the paths of parameters to the portion of them that
trains. A parameter that is not in it is frozen: it has no gradient, no
optimiser state, and keeps its bits. Of a parameter that is stacked over the
layers, the upper half of the layers may train alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import re
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.types import Params

LAYERS = 'layers'
TASK_VECTORS = ('tasks', 'task_embed')

Axes = tuple[str, ...]
Portion = Literal['whole', 'upper_half']
Trained = Mapping[str, Portion]
Preset = Literal[
  'all',
  'added',
  'added_and_norms',
  'added_and_upper_half',
  'added_and_upper_halves',
  'task_vectors',
]
Trainable = Preset | Sequence[str]
# (path, axes, whether the method adds it) -> the portion that trains, if any.
Rule = Callable[[str, Axes, bool], Portion | None]


def _whole(condition: bool) -> Portion | None:
  return 'whole' if condition else None


def _is_norm(path: str) -> bool:
  """Returns whether a plain T5's parameter is a norm's scale."""
  return path.endswith('/scale')


def _upper_half(path: str, stacks: Collection[str]) -> Portion | None:
  """Returns what trains of a plain parameter above the stacks' lower halves.

  A stack's position bias belongs to its lowest layer: in the original T5 it
  lies there.
  """
  top = path.split('/')[0]
  if top not in stacks:
    return _whole(top != 'token_embedder')
  if path.startswith(f'{top}/{LAYERS}/'):
    return 'upper_half'
  return _whole(not path.startswith(f'{top}/relative_bias/'))


PRESETS: dict[str, Rule] = {
  'all': lambda path, axes, added: 'whole',
  'added': lambda path, axes, added: _whole(added),
  'added_and_norms': lambda path, axes, added: _whole(added or _is_norm(path)),
  'added_and_upper_half': lambda path, axes, added: (
    'whole' if added else _upper_half(path, ('encoder',))
  ),
  'added_and_upper_halves': lambda path, axes, added: (
    'whole' if added else _upper_half(path, ('encoder', 'decoder'))
  ),
  'task_vectors': lambda path, axes, added: _whole(axes == TASK_VECTORS),
}


def trained_parameters(
  logical_axes: Params,
  trainable: Trainable = 'all',
  *,
  added: Collection[str] = (),
) -> Trained:
  """Returns which parameters train, and which portion of them.

  Presets:
    all: everything.
    added: what the method adds to T5, such as HyperGrid's gates, adapters, or
      the generators of adapters.
    added_and_norms: also the scales of T5's RMSNorms.
    added_and_upper_half: what the method adds, the upper half of the encoder's
      layers, and the decoder. Frozen are the encoder's lower layers with its
      position bias, and the token embedding.
    added_and_upper_halves: the same with the decoder's lower half frozen too.
    task_vectors: the table of one vector (or seed) per task.

  Args:
    logical_axes: nested dict like the parameters, of tuples of axis names.
    trainable: a preset, or regular expressions over paths such as
      'encoder/layers/feed_forward/wo', which must match a whole path.
    added: paths of the parameters that the plain T5 does not have.

  Raises:
    UserError: there is no such preset, or no parameter that it is about; or a
      pattern is invalid or matches nothing, or two patterns match the same
      parameter, so that one of them does not say what was meant.
  """
  axes = trees.flatten(logical_axes, is_leaf=trees.is_axes)
  if not isinstance(trainable, str) and trainable:
    return _matched(list(axes), trainable)
  if not isinstance(trainable, str) or trainable not in PRESETS:
    raise UserError(
      f'train.trainable is {trainable!r}, but must be one of'
      f' {", ".join(map(repr, get_args(Preset)))}, or a list of regular'
      f' expressions over parameter paths.{closest(str(trainable), PRESETS)}'
    )
  if trainable.startswith('added') and not added:
    raise UserError(
      f'train.trainable is {trainable!r}, but this model has no method that'
      " adds parameters to T5. Choose a run.method, or 'all'."
    )
  portions = {
    path: PRESETS[trainable](path, names, path in added)
    for path, names in axes.items()
  }
  trained = {path: portion for path, portion in portions.items() if portion}
  if not trained:
    raise UserError(
      f'train.trainable is {trainable!r}, but no parameter of this model is'
      ' one.'
    )
  return trained


def _matched(paths: Sequence[str], patterns: Sequence[str]) -> Trained:
  """Returns the paths that exactly one of the patterns matches, as trained."""
  owner: dict[str, str] = {}
  for pattern in patterns:
    try:
      compiled = re.compile(pattern)
    except re.error as error:
      raise UserError(
        f'train.trainable: {pattern!r} is not a regular expression: {error}.'
      ) from error
    matched = [path for path in paths if compiled.fullmatch(path)]
    if not matched:
      raise UserError(
        f'train.trainable: {pattern!r} matches no parameter; it must match a'
        f' whole path.{closest(pattern, paths)}'
      )
    for path in matched:
      if path in owner:
        raise UserError(
          f'train.trainable: {path} is matched by both {owner[path]!r} and'
          f' {pattern!r}. Each parameter must match at most one.'
        )
      owner[path] = pattern
  return dict.fromkeys(owner, 'whole')


def _lower(num_layers: int) -> int:
  """Returns how many of a stack's layers are below its upper half."""
  return num_layers // 2


def trained_shape(shape: tuple[int, ...], portion: Portion) -> tuple[int, ...]:
  """Returns the shape of the portion of a parameter that trains."""
  if portion == 'upper_half':
    return (shape[0] - _lower(shape[0]), *shape[1:])
  return shape


def select(tree: Params, trained: Trained) -> Params:
  """Returns nested dicts with the trained portion of each trained leaf.

  Args:
    tree: nested dicts; leaves that are not trained may be missing.
    trained: see `trained_parameters`.
  """

  def portion(path: str, leaf: jax.Array) -> jax.Array:
    return leaf if trained[path] == 'whole' else leaf[_lower(len(leaf)) :]

  return trees.map_with_path(portion, trees.select(tree, trained))


def expand_updates(updates: Params, params: Params, trained: Trained) -> Params:
  """Returns updates of all parameters, given those of the trained portions.

  Frozen numbers get -0.0. Adding that leaves every number as it is, bit for
  bit, and under jit costs nothing; adding +0.0 would turn -0.0 into +0.0.

  Args:
    updates: nested dicts as from `select`.
    params: all parameters.
    trained: see `trained_parameters`.
  """
  by_path = trees.flatten(updates)

  def full(path: str, param: jax.Array) -> jax.Array:
    if path not in trained:
      return jnp.full_like(param, -0.0)
    if trained[path] == 'whole':
      return by_path[path]
    frozen = jnp.full_like(param[: _lower(len(param))], -0.0)
    return jnp.concatenate([frozen, by_path[path]])

  return trees.map_with_path(full, params)


def stop_gradient_of_frozen(params: Params, trained: Trained) -> Params:
  """Returns the parameters, the frozen ones as constants to a gradient.

  Their gradients are zeros, and are not computed where a whole leaf is frozen.
  """

  def stopped(path: str, param: jax.Array) -> jax.Array:
    if path not in trained:
      return jax.lax.stop_gradient(param)
    if trained[path] == 'whole':
      return param
    lower = _lower(len(param))
    frozen = jax.lax.stop_gradient(param[:lower])
    return jnp.concatenate([frozen, param[lower:]])

  return trees.map_with_path(stopped, params)
