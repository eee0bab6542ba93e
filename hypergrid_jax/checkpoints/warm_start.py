"""Starting a run from the parameters of another one."""

import os

from hypergrid_jax import trees
from hypergrid_jax.checkpoints.reader import CheckpointReader
from hypergrid_jax.model import Model
from hypergrid_jax.types import Params


def load_params(
  directory: str | os.PathLike[str],
  model: Model,
  fresh: Params,
) -> tuple[Params, list[str]]:
  """Takes parameters from a checkpoint, and the rest from `fresh`.

  Only what the method adds to T5 may be missing, so that a plain T5 goes into
  any method; everything else must be there, and nothing else.

  Args:
    directory: of a run; its newest whole checkpoint is read.
    model: the architecture.
    fresh: all of its parameters, in their places on the devices.

  Returns:
    The parameters, and the paths of those that are still fresh.

  Raises:
    UserError: there is no whole checkpoint, or it has other parameters; both
      sides are listed.
  """
  reader = CheckpointReader(directory)
  missing = model.added - reader.saved_params()
  leaves = trees.flatten(fresh)
  wanted = {p: leaf for p, leaf in leaves.items() if p not in missing}
  restored, _ = reader.restore_params(trees.unflatten(wanted))
  merged = {**leaves, **trees.flatten(restored)}
  return trees.unflatten(merged), sorted(missing)
