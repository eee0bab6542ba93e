"""One stack of all layers' arrays, which kernels of the backward pass read.

JAX's scan stacks what every layer keeps for its gradient, and in the backward
pass slices each layer's array out of the stack again. XLA fuses such a slice
with a matrix product of its own; before a Pallas kernel the slice is a copy of
the whole array. Here the layers write these arrays into one stack [N, ...] that
the scan carries, and the backward kernel gets the whole stack and the number of
its layer, so that nothing is copied.

How the stack reaches the backward pass: a gradient function sees only residuals
and cotangents, and a residual would be sliced again. So the stack travels as a
cotangent. Nothing depends on the final stack, so its true cotangent is zero;
`scan` replaces that zero by the stack itself, and the backward scan carries it
from layer to layer.

An operation takes part by asking for a `slot` while it is traced. It must be a
`jax.custom_vjp` that takes the stack and returns the updated stack, and whose
gradient function passes the stack's cotangent on unchanged.
"""

from collections.abc import Callable
import contextlib
import contextvars
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hypergrid_jax.parallel import current_mesh

PLATFORMS = ('tpu',)  # where kernels gain by it
NAME = 'beside_stash'  # of results, for remat policies: see `Slot.fill`

_slots: contextvars.ContextVar[Any] = contextvars.ContextVar(
  'scan_stash', default=None
)


@dataclasses.dataclass(frozen=True)
class Slot:
  """One operation's array of one layer, in the stack of all layers.

  Attributes:
    stack: [N, ...], the arrays of all layers.
    layer: number of this layer, int32 scalar.
  """

  stack: jax.Array
  layer: jax.Array
  _slots: '_LayerSlots'
  _number: int

  def fill(self, stack: jax.Array, result: Any) -> Any:
    """Stores the stack with this layer's array in it.

    Args:
      stack: `self.stack` after `jax.lax.dynamic_update_index_in_dim`.
      result: the operation's other results.

    Returns:
      `result`, to be used in place of the argument. It has a checkpoint name
      under which it must be saved: computing it again in the backward pass
      would need the stack as it was at this layer.
    """
    self._slots.stacks[self._number] = stack
    return jax.ad_checkpoint.checkpoint_name(result, NAME)


def slot(shape: tuple[int, ...], dtype: Any) -> Slot | None:
  """Returns where to keep a layer's array, or None to keep it as usual.

  It is None outside of `scan`, and while `scan` counts what a layer asks for.
  """
  slots = _slots.get()
  return None if slots is None else slots.slot(shape, dtype)


def scan(
  body: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  xs: Any,
  *,
  wrap: Callable[..., Any] = lambda body: body,
) -> tuple[Any, Any]:
  """Runs `jax.lax.scan` with a body whose operations may ask for slots.

  Args:
    body: maps (carry, x) to (carry, y), as for `jax.lax.scan`; every layer must
      ask for the same slots.
    carry: the first carry; it may be differentiated as usual.
    xs: arrays [N, ...].
    wrap: a transformation of the body, such as `jax.checkpoint` with a policy
      that saves `NAME`.

  Returns:
    The last carry and the stacked ys.
  """
  shapes = []
  if current_mesh.platform() in PLATFORMS:
    shapes = _requested_shapes(body, carry, xs)
  if not shapes:
    return jax.lax.scan(wrap(body), carry, xs)
  layers = len(jax.tree.leaves(xs)[0])
  stacks = [jax.lax.empty((layers, *x.shape), x.dtype) for x in shapes]

  def with_stacks(carry, scanned):
    (carry, stacks), (layer, x) = carry, scanned
    slots = _LayerSlots(list(stacks), layer)
    with _using(slots):
      carry, y = body(carry, x)
    return (carry, slots.stacks), y

  numbered = jnp.arange(layers, dtype=jnp.int32), xs
  start = carry, stacks
  (carry, stacks), ys = jax.lax.scan(wrap(with_stacks), start, numbered)
  return _stacks_as_cotangents((carry, ys), stacks)


@jax.custom_vjp
def _stacks_as_cotangents(results, stacks):
  """Returns the results; the gradient gives each stack itself as cotangent."""
  del stacks
  return results


_stacks_as_cotangents.defvjp(
  lambda results, stacks: (results, stacks),
  lambda stacks, dresults: (dresults, stacks),
)


def _requested_shapes(body, carry, xs) -> list[jax.ShapeDtypeStruct]:
  """Traces one layer and returns the shapes of the slots it asks for."""
  requests = _Requests([])

  def first_layer(carry, xs):
    return body(carry, jax.tree.map(lambda x: x[0], xs))

  with _using(requests):
    jax.eval_shape(first_layer, carry, xs)
  return requests.shapes


@contextlib.contextmanager
def _using(slots):
  token = _slots.set(slots)
  try:
    yield
  finally:
    _slots.reset(token)


@dataclasses.dataclass
class _Requests:
  """Records the shapes that are asked for."""

  shapes: list[jax.ShapeDtypeStruct]

  def slot(self, shape, dtype) -> None:
    self.shapes.append(jax.ShapeDtypeStruct(shape, dtype))


@dataclasses.dataclass
class _LayerSlots:
  """Hands out one layer's slots, in the order they are asked for."""

  stacks: list[jax.Array]
  layer: jax.Array
  count: int = 0

  def slot(self, shape, dtype) -> Slot:
    del shape, dtype
    number, self.count = self.count, self.count + 1
    return Slot(self.stacks[number], self.layer, self, number)
