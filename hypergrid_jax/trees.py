"""Names for the leaves of a pytree: 'encoder/layers/feed_forward/wo'.

Everything that selects, reports, saves or compares parameters speaks of them by
these paths, so that a name in an error message, a checkpoint, a regular
expression and a test is one and the same string.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

IsLeaf = Callable[[Any], bool]
_SHOWN = 20  # more names than that hide the message


def is_axes(value: Any) -> bool:
  """Returns whether `value` is a leaf of a tree of logical axes.

  Such a leaf is a plain tuple of axis names; the empty tuple belongs to a
  scalar. JAX itself would walk into it as a container.
  """
  return type(value) is tuple and all(isinstance(name, str) for name in value)


def _name(path: tuple[Any, ...]) -> str:
  for key in path:
    if '/' in jax.tree_util.keystr((key,), simple=True):
      raise ValueError(f'tree key {key} contains the path separator "/"')
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flatten(tree: Any, *, is_leaf: IsLeaf | None = None) -> dict[str, Any]:
  """Returns the leaves of any pytree by path, in JAX's leaf order.

  Args:
    tree: nested dicts, dataclasses, named tuples or sequences; the path holds
      dict keys, field names and indices.
    is_leaf: which nodes to keep whole, as in `jax.tree.map`; `is_axes` for
      trees of logical axes.

  Raises:
    ValueError: a key contains '/', so paths would be ambiguous.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
  return {_name(path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts with the given leaves; the inverse of `flatten`.

  Only for trees made of dicts alone is it the exact inverse: tuples and
  dataclasses come back as dicts.

  Raises:
    ValueError: one path is both a leaf and the parent of another.
  """
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, last = path.split('/')
    node = tree
    for depth, key in enumerate(parents, start=1):
      prefix = '/'.join(parents[:depth])
      if prefix in leaves:
        raise ValueError(f'{prefix!r} is a leaf and the parent of {path!r}')
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def map_with_path(
  fn: Callable[..., Any],
  tree: Any,
  *rest: Any,
  is_leaf: IsLeaf | None = None,
) -> Any:
  """Applies fn(path, leaf, *leaves of rest) and keeps the tree's structure."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: fn(_name(path), *leaves), tree, *rest, is_leaf=is_leaf
  )


def select(tree: Any, paths: Collection[str]) -> dict[str, Any]:
  """Returns nested dicts with only the leaves whose path is in `paths`."""
  return unflatten(
    {path: leaf for path, leaf in flatten(tree).items() if path in paths}
  )


def layout(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns [dtype name, shape as a list] of every array, ready for JSON."""
  return {
    path: [jax.numpy.dtype(leaf.dtype).name, list(leaf.shape)]
    for path, leaf in leaves.items()
  }


def differences(
  saved: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
  """Compares two layouts, both ways.

  Args:
    saved: `layout` of the checkpoint.
    expected: `layout` of the model.

  Returns:
    One line for each kind of difference, with the paths; empty when equal.
  """
  common = [path for path in expected if path in saved]

  def unequal(field: int) -> list[str]:
    return [
      f'{path} ({saved[path][field]} instead of {expected[path][field]})'
      for path in common
      if saved[path][field] != expected[path][field]
    ]

  kinds = {
    'missing': [path for path in expected if path not in saved],
    'unexpected': [path for path in saved if path not in expected],
    'of another dtype': unequal(0),
    'of another shape': unequal(1),
  }
  lines = []
  for kind, paths in kinds.items():
    more = len(paths) - _SHOWN
    shown = paths[:_SHOWN] + ([f'and {more} more'] if more > 0 else [])
    if paths:
      lines.append(f'{len(paths)} {kind}: {", ".join(shown)}')
  return lines
