"""A method that becomes a plain T5 once the task is fixed.

Where a method's parameters act through the row's task alone, they can be
multiplied into T5's own. A method does that in

  fold(config, params, task_id) -> params

of its configuration: it gets all parameters as NumPy arrays by path and returns
those of a plain T5 that computes what the method computes for that task. A
component that no plain T5 can stand in for is refused by name.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from hypergrid_jax.errors import UserError
from hypergrid_jax.model import conditioning

# The stacks, and the field that counts the layers of each.
STACKS = {'encoder': 'num_layers', 'decoder': 'num_decoder_layers'}

Leaves = dict[str, np.ndarray]


def fold(
  method: Any,
  config: Any,
  params: Mapping[str, np.ndarray],
  task_id: int,
  *,
  plain: Collection[str],
) -> Leaves:
  """Returns the parameters of the plain T5 that a model is for one task.

  Args:
    method: a method's configuration, a tuple of several, or None.
    config: the model's `T5Config`.
    params: all parameters by path, float32.
    task_id: the task's id, in [0, T).
    plain: the paths of the parameters of a plain T5.

  Raises:
    UserError: there is no such T5; names the component that has none.
  """
  methods = () if method is None else method
  folded = dict(params)
  for each in methods if isinstance(methods, tuple) else (methods,):
    if not hasattr(each, 'fold'):
      raise not_plain(type(each).__name__, 'it does not say how')
    folded = each.fold(config, {**params, **folded}, task_id)
  unfolded = sorted(set(folded) ^ set(plain))
  if unfolded:
    raise ValueError(f'folding left {unfolded}')
  return folded


def not_plain(component: str, why: str) -> UserError:
  """Returns the refusal of one component of a method."""
  return UserError(f'{component} cannot be folded into a plain T5: {why}.')


def refuse_components(method: Any, reasons: Mapping[str, str]) -> None:
  """Refuses a method that has one of some components switched on.

  Args:
    method: the method's configuration.
    reasons: why each component, a field of the method, has no plain T5.

  Raises:
    UserError: names the first component that is on.
  """
  for component, why in reasons.items():
    if getattr(method, component):
      raise not_plain(f'{type(method).__name__}.{component}', why)


def without_conditions(params: Mapping[str, np.ndarray]) -> Leaves:
  """Returns the parameters outside of the stacks' `condition` points."""
  prefixes = tuple(f'{stack}/condition/' for stack in STACKS)
  return {p: v for p, v in params.items() if not p.startswith(prefixes)}


def expanded(gate: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Repeats the entries of a gate over a kernel's blocks.

  Args:
    gate: [Gr, Gc], or [N] for a gate of the outputs.
    kernel: [K, N].
  """
  gate = np.atleast_2d(gate)
  for axis in (0, 1):
    gate = np.repeat(gate, kernel.shape[axis] // gate.shape[axis], axis=axis)
  return gate


def film_norms(
  params: Mapping[str, np.ndarray],
  config: Any,
  stack: str,
  norms: Collection[str],
  layers: conditioning.Layers,
  task_id: int,
) -> Leaves:
  """Returns the scales of norms that FiLM conditions on the task.

  Args:
    params: all parameters by path.
    config: the model's `T5Config`.
    stack: 'encoder' or 'decoder'.
    norms: names of a layer's norms, or 'final_norm'.
    layers: the layers whose norms are conditioned.
    task_id: the task's id, in [0, T).

  Returns:
    (1 + gamma) s + beta by the path of every scale s.
  """
  prefix, scales = f'{stack}/condition', {}
  for name in norms:
    vector = params[f'{prefix}/task_vectors/embedding'][task_id]
    vector = dense(params, f'{prefix}/task_projection', vector)
    gamma = dense(params, f'{prefix}/{name}/gamma', vector)
    beta = dense(params, f'{prefix}/{name}/beta', vector)
    if name == 'final_norm':
      path, selected = f'{stack}/{name}/scale', ...
    else:
      path = f'{stack}/layers/{name}/scale'
      count = getattr(config, STACKS[stack])
      selected = list(conditioning.selected_layers(layers, count, 'layers'))
    scale = params[path].copy()
    scale[selected] = (1 + gamma) * scale[selected] + beta
    scales[path] = scale
  return scales


def dense(
  params: Mapping[str, np.ndarray], path: str, vector: np.ndarray
) -> np.ndarray:
  """Applies a `conditioning.Dense` to one vector, in float64.

  Args:
    params: all parameters by path.
    path: the module's path; its kernel is [A, C], or [N, A, C] for N layers.
    vector: [A].

  Returns:
    [C], or [N, C].
  """
  kernel = params[f'{path}/kernel'].astype(np.float64)
  return vector.astype(np.float64) @ kernel + params[f'{path}/bias']
