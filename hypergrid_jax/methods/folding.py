"""A method that becomes a plain T5 once the task is fixed.

A method whose parameters act through the row's task alone can be multiplied
into T5's own. Which of its parts that holds for, it says itself, in

  fold(config, params, task_id) -> params

of its configuration: `params` are NumPy arrays by path, and what is returned is
T5's part of them, changed so that a plain T5 computes what the method computes
for that task. A part for which no such parameters exist is refused by name.
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
    method: a method's configuration, a tuple of them, or None.
    config: the T5's.
    params: all parameters by path, float32.
    task_id: of the task.
    plain: the paths that a plain T5 has.

  Raises:
    UserError: there is no such T5; names the part that has none.
  """
  methods = () if method is None else method
  folded = dict(params)
  for one in methods if isinstance(methods, tuple) else (methods,):
    if not hasattr(one, 'fold'):
      name = type(one).__name__
      raise not_plain(name, 'it does not say how')
    folded = one.fold(config, {**params, **folded}, task_id)
  left = sorted(set(folded) ^ set(plain))
  if left:
    raise ValueError(f'folding left {left}')
  return folded


def not_plain(part: str, why: str) -> UserError:
  """The refusal of one part of a method."""
  return UserError(f'{part} cannot be folded into a plain T5: {why}.')


def refuse_parts(method: Any, name: str, reasons: Mapping[str, str]) -> None:
  """Refuses a method that has one of some parts switched on.

  Args:
    method: its configuration.
    name: of the method.
    reasons: why each part, a field of the method, has no plain T5.

  Raises:
    UserError: names the first part that is on.
  """
  for part, why in reasons.items():
    if getattr(method, part):
      raise not_plain(f'{name}.{part}', why)


def without_conditions(params: Mapping[str, np.ndarray]) -> Leaves:
  """The parameters, but for those of the stacks' `condition` points."""
  prefixes = tuple(f'{stack}/condition/' for stack in STACKS)
  return {p: v for p, v in params.items() if not p.startswith(prefixes)}


def expanded(gate: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Repeats the cells of a gate over a kernel's blocks.

  Args:
    gate: [Gr, Gc], or [out] for a gate of the outputs.
    kernel: [in, out].
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
  """The scales of norms that FiLM conditions on a projected task vector.

  Args:
    params: by path.
    config: the T5's.
    stack: 'encoder' or 'decoder'.
    norms: of a layer, or 'final_norm'.
    layers: those whose norms are conditioned.
    task_id: of the task.

  Returns:
    (1 + gamma) s + beta by the path of every scale s.
  """
  made, found = f'{stack}/condition', {}
  for name in norms:
    vector = params[f'{made}/task_vectors/embedding'][task_id]
    vector = dense(params, f'{made}/task_projection', vector)
    gamma = dense(params, f'{made}/{name}/gamma', vector)
    beta = dense(params, f'{made}/{name}/beta', vector)
    if name == 'final_norm':
      path, at = f'{stack}/{name}/scale', ...
    else:
      path, count = (
        f'{stack}/layers/{name}/scale',
        getattr(config, STACKS[stack]),
      )
      at = list(conditioning.selected_layers(layers, count, 'layers'))
    scale = params[path].copy()
    scale[at] = (1 + gamma) * scale[at] + beta
    found[path] = scale
  return found


def dense(
  params: Mapping[str, np.ndarray], path: str, vector: np.ndarray
) -> np.ndarray:
  """What a `conditioning.Dense` makes of one vector, in float64.

  Args:
    params: by path.
    path: of the module; kernel [A, C], or [N, A, C] for N layers.
    vector: [A].

  Returns:
    [C], or [N, C].
  """
  kernel = params[f'{path}/kernel'].astype(np.float64)
  return vector.astype(np.float64) @ kernel + params[f'{path}/bias']
