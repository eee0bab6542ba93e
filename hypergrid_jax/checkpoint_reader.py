"""Reading the checkpoints of a run; what they look like is told here.

A run directory holds:

  checkpoints/<step>/params/      parameters, written by Orbax
  checkpoints/<step>/training/    step and optimiser state, written by Orbax
  checkpoints/<step>/manifest.json  written last: fingerprint, leaves, checksums
  checkpoints/best.json           which steps are the best, and their scores
"""

from collections.abc import Collection, Mapping
import json
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from hypergrid_jax import manifest, tree_paths
from hypergrid_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_PARAMS = 'params'
_TRAINING = 'training'


def _item(path: str) -> str:
  return _PARAMS if path.split('/')[0] == _PARAMS else _TRAINING


def to_items(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the Orbax items of a checkpoint as nested dicts."""
  names = sorted({_item(path) for path in leaves})
  return {
    name: tree_paths.unflatten(
      {path: leaf for path, leaf in leaves.items() if _item(path) == name}
    )
    for name in names
  }


class CheckpointReader:
  """The checkpoints of one run directory; changes nothing on disk.

  Attributes:
    directory: where the checkpoints are, `checkpoints` in the run directory.
  """

  def __init__(self, directory: str | pathlib.Path):
    """Takes the run directory; it need not exist."""
    self.directory = pathlib.Path(directory).absolute() / 'checkpoints'

  def steps(self) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    return [
      step
      for step in self._directories()
      if manifest.is_finished(self._path(step))
    ]

  def latest(self) -> int | None:
    """Returns the step of the newest finished checkpoint."""
    return max(self.steps(), default=None)

  def best(self, name: str = 'average') -> int | None:
    """Returns the step that `mark_best` found best, if it is still there."""
    step, _ = self._best().get(name, (None, None))
    return step if step in self.steps() else None

  def meta(self, step: int | None = None) -> dict[str, Any] | None:
    """Returns what was saved beside the state, reading nothing else.

    Args:
      step: which checkpoint; None for the newest whose manifest is undamaged.

    Returns:
      The `meta` of `save` with 'fingerprint' and 'step' added; None if there
      is no such checkpoint.
    """
    steps = self.steps()[::-1] if step is None else [step]
    for candidate in steps:
      try:
        return manifest.read_body(self._path(candidate))['meta']
      except (ValueError, FileNotFoundError):
        continue
    return None

  def saved_params(self, step: int | None = None) -> frozenset[str]:
    """Returns the paths of the parameters in a checkpoint.

    Args:
      step: which checkpoint; None for the newest whole one.

    Raises:
      UserError: see `restore`; or there is no checkpoint.
    """
    step = self._choose(step)
    if step is None:
      raise UserError(f'There is no checkpoint in {self.directory}.')
    return frozenset(
      path.removeprefix(f'{_PARAMS}/')
      for path in manifest.read_body(self._path(step))['leaves']
      if _item(path) == _PARAMS
    )

  def restore(
    self, abstract_state: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]] | None:
    """Reads a checkpoint, bit for bit, onto the mesh of `abstract_state`.

    All files are checked before anything is loaded. When the newest checkpoint
    is damaged or was not finished, the newest whole one is used and a warning
    names both.

    Args:
      abstract_state: the state as `jax.ShapeDtypeStruct`s with shardings; any
        mesh, not only the one that saved.
      step: which checkpoint; None for the newest whole one.

    Returns:
      (state, meta), see `meta`; None if there is no checkpoint.

    Raises:
      UserError: `step` does not exist or is damaged, no checkpoint is whole, or
        the leaves of state and checkpoint differ: both sides are listed.
    """
    return self._restore(abstract_state, step, (_PARAMS, _TRAINING))

  def restore_params(
    self, abstract_params: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]] | None:
    """Reads only the parameters; otherwise like `restore`.

    Args:
      abstract_params: nested dict of `jax.ShapeDtypeStruct`s with shardings.
      step: which checkpoint; None for the newest whole one.

    Returns:
      (params, meta), or None if there is no checkpoint.

    Raises:
      UserError: see `restore`.
    """
    found = self._restore({_PARAMS: abstract_params}, step, (_PARAMS,))
    return None if found is None else (found[0][_PARAMS], found[1])

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / str(step)

  def _directories(self) -> list[int]:
    """Returns the steps that have a directory, finished or not, ascending."""
    if not self.directory.is_dir():
      return []
    names = [path.name for path in self.directory.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def _best(self) -> dict[str, tuple[int, float]]:
    path = self.directory / 'best.json'
    try:
      content = json.loads(path.read_bytes())
      return {k: (v['step'], v['value']) for k, v in content.items()}
    except FileNotFoundError:
      return {}
    except (ValueError, TypeError, KeyError, AttributeError):
      _LOG.warning('%s is damaged; no checkpoint counts as the best', path)
      return {}

  def _choose(self, step: int | None) -> int | None:
    """Returns the checkpoint to read; see `restore`."""
    if step is not None:
      if step not in self._directories():
        raise UserError(
          f'{self.directory} has no checkpoint of step {step}; it has '
          f'{", ".join(map(str, self.steps())) or "none"}.'
        )
      problem = manifest.problem(self._path(step))
      if problem is not None:
        raise UserError(
          f'Checkpoint {self._path(step)} cannot be used: {problem}. '
          f'There are also {self.steps()}.'
        )
      return step
    skipped = []
    damaged = False
    for candidate in self._directories()[::-1]:
      problem = manifest.problem(self._path(candidate))
      if problem is None:
        for line in skipped:
          _LOG.warning('%s Going on from %s.', line, self._path(candidate))
        return candidate
      damaged |= manifest.is_finished(self._path(candidate))
      skipped.append(f'Checkpoint {self._path(candidate)}: {problem}.')
    if damaged:
      raise UserError(
        'No checkpoint is whole.\n'
        + '\n'.join(f'  {line}' for line in skipped)
        + '\nMove the directory away to start from the beginning.'
      )
    for line in skipped:
      _LOG.warning('%s There is no other to go on from.', line)
    return None

  def _restore(
    self, abstract: Any, step: int | None, items: Collection[str]
  ) -> tuple[Any, dict[str, Any]] | None:
    step = self._choose(step)
    if step is None:
      return None
    body = manifest.read_body(self._path(step))
    if _TRAINING in items and not any(
      _item(leaf) == _TRAINING for leaf in body['leaves']
    ):
      raise UserError(
        f'Checkpoint {self._path(step)} holds parameters alone, without the'
        ' state of an optimiser. Start a run from it in another directory:'
        f' train.initial_checkpoint={self.directory.parent}'
      )
    leaves = tree_paths.flatten(abstract)
    differences = tree_paths.differences(
      {k: v for k, v in body['leaves'].items() if _item(k) in items},
      tree_paths.layout(leaves),
    )
    if differences:
      raise UserError(
        f'Checkpoint {self._path(step)} holds another model or optimiser.\n'
        + '\n'.join(f'  {line}' for line in differences)
        + '\nUse the configuration it was written with, or another directory.'
      )
    args = ocp.args.Composite(
      **{k: ocp.args.StandardRestore(v) for k, v in to_items(leaves).items()}
    )
    with self._open() as manager:
      restored = manager.restore(step, args=args)
    found: dict[str, Any] = {}
    for name in to_items(leaves):
      found |= tree_paths.flatten(restored[name])
    state = jax.tree.unflatten(
      jax.tree.structure(abstract), [found[path] for path in leaves]
    )
    return state, body['meta']

  def _open(self, *, writable: bool = False) -> ocp.CheckpointManager:
    """Opens Orbax; unless `writable`, it starts no thread for saving."""
    options = ocp.CheckpointManagerOptions(
      create=False, enable_async_checkpointing=writable
    )
    return ocp.CheckpointManager(self.directory, options=options)


def named_steps(checkpoints: CheckpointReader, step: int | str) -> list[int]:
  """Returns the steps that a person names.

  Args:
    checkpoints: of a run.
    step: a number, 'all', or 'best'; without a best one that is the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  steps = checkpoints.steps()
  if not steps:
    raise UserError(
      f'There is no checkpoint in {checkpoints.directory}. Train first, or'
      ' name another --model_dir.'
    )
  if step == 'all':
    return steps
  if step == 'best':
    best = checkpoints.best()
    return [steps[-1] if best is None else best]
  if int(step) not in steps:
    raise UserError(
      f'There is no checkpoint of step {step} in {checkpoints.directory}; there'
      f' are {steps}.'
    )
  return [int(step)]
