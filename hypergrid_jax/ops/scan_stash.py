"""Arrays of scanned layers that the backward pass reads where they lie.

What a scanned layer keeps for its gradient, JAX stacks along the layers and
slices again in the backward pass. XLA takes such a slice into a matrix product
of its own; for a kernel it is a copy. Here layers write such arrays into one
stack [N, ...] that the scan carries, and the gradient of an operation gets the
whole stack, in which a kernel finds its layer's part.

It gets it as the stack's cotangent. The stack is used for nothing but this, so
that its true cotangent is zero; `scan` returns in its place the stack itself,
which the backward pass of the scan then carries through all layers.

An operation takes part by asking for a `place` while it is traced. It has to be
a `jax.custom_vjp` with the stack as argument and the updated stack as result;
its gradient returns the cotangent of the result as that of the argument.
"""

from collections.abc import Callable
import contextlib
import contextvars
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hypergrid_jax.parallel import current_mesh

PLATFORMS = ('tpu',)  # whose kernels gain by it
NAME = 'beside_stash'  # of results, for policies of remat: see `Place.fill`

_open: contextvars.ContextVar[Any] = contextvars.ContextVar(
  'scan_stash', default=None
)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one operation of one layer keeps an array.

  Attributes:
    stack: [N, ...], of all layers.
    layer: number of this one, int32 scalar.
  """

  stack: jax.Array
  layer: jax.Array
  _opened: '_Opened'
  _number: int

  def fill(self, stack: jax.Array, result: Any) -> Any:
    """Hands back the stack with the array in it.

    Args:
      stack: what `jax.lax.dynamic_update_index_in_dim` made of `self.stack`.
      result: the operation's other results.

    Returns:
      `result` to be used instead: where the backward pass needs it, it is kept,
      for to compute it again would take the stack as it was at this layer.
    """
    self._opened.stacks[self._number] = stack
    return jax.ad_checkpoint.checkpoint_name(result, NAME)


def place(shape: tuple[int, ...], dtype: Any) -> Place | None:
  """Where to keep an array of a layer.

  None outside of `scan`, and while it finds out what a layer asks for: then the
  operation does without.
  """
  opened = _open.get()
  return None if opened is None else opened.place(shape, dtype)


def scan(
  body: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  xs: Any,
  *,
  wrap: Callable[..., Any] = lambda body: body,
) -> tuple[Any, Any]:
  """`jax.lax.scan` whose body may ask for places.

  Args:
    body: as of `jax.lax.scan`; it asks for the same places in every layer.
    carry: likewise, to be differentiated as usual.
    xs: arrays [N, ...].
    wrap: what the body goes through, such as `jax.checkpoint` with a policy
      that saves `NAME`.

  Returns:
    As `jax.lax.scan`.
  """
  on = current_mesh.platform() in PLATFORMS
  wanted = _wanted(body, carry, xs) if on else []
  if not wanted:
    return jax.lax.scan(wrap(body), carry, xs)
  layers = len(jax.tree.leaves(xs)[0])
  stacks = [jax.lax.empty((layers, *x.shape), x.dtype) for x in wanted]

  def with_stacks(carry, scanned):
    (carry, stacks), (layer, x) = carry, scanned
    opened = _Opened(list(stacks), layer)
    with _opening(opened):
      carry, y = body(carry, x)
    return (carry, opened.stacks), y

  numbered = jnp.arange(layers, dtype=jnp.int32), xs
  start = carry, stacks
  (carry, stacks), ys = jax.lax.scan(wrap(with_stacks), start, numbered)
  return _tied((carry, ys), stacks)


@jax.custom_vjp
def _tied(results, stacks):
  """The results; the gradient gives the stacks back as their cotangents."""
  del stacks
  return results


_tied.defvjp(
  lambda results, stacks: (results, stacks),
  lambda stacks, dresults: (dresults, stacks),
)


def _wanted(body, carry, xs) -> list[jax.ShapeDtypeStruct]:
  """What one layer asks places for."""
  asked = _Asked([])

  def first(carry, xs):
    return body(carry, jax.tree.map(lambda x: x[0], xs))

  with _opening(asked):
    jax.eval_shape(first, carry, xs)
  return asked.shapes


@contextlib.contextmanager
def _opening(opened):
  token = _open.set(opened)
  try:
    yield
  finally:
    _open.reset(token)


@dataclasses.dataclass
class _Asked:
  """Notes what is asked for."""

  shapes: list[jax.ShapeDtypeStruct]

  def place(self, shape, dtype) -> None:
    self.shapes.append(jax.ShapeDtypeStruct(shape, dtype))


@dataclasses.dataclass
class _Opened:
  """Gives the places of one layer, in the order they are asked for."""

  stacks: list[jax.Array]
  layer: jax.Array
  given: int = 0

  def place(self, shape, dtype) -> Place:
    del shape, dtype
    number, self.given = self.given, self.given + 1
    return Place(self.stacks[number], self.layer, self, number)
