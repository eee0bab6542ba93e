"""Reading the checkpoints of a run: listing, verifying, restoring, warm start.

`layout` describes their files.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import contextlib
import logging
import os
import pathlib
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import layout
from hypergrid_jax.checkpoints.layout import PARAMS, TRAINING, item_of
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.model import Model
from hypergrid_jax.parallel import agreement, processes
from hypergrid_jax.types import Params

_LOG = logging.getLogger(__name__)
_BEST = 'best'
AVERAGE = 'average'
# Maps a saved fingerprint to one line for each thing that differs.
Differences = Callable[[Mapping[str, Any]], Sequence[str]]


class CheckpointReader:
  """The checkpoints of one run directory; changes nothing on disk.

  Every process of a run calls every method, in the same order and with the same
  arguments: process 0 reads the directory and broadcasts what it sees, so that
  all use the same checkpoint even where a shared disk shows them different
  files.

  Attributes:
    directory: where the checkpoints are, `checkpoints` in the run directory.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    differences: Differences | None = None,
  ):
    """Describes where the checkpoints are; touches no file.

    Args:
      directory: the run directory; it need not exist.
      differences: returns one line for each way in which a saved fingerprint
        differs from this run's; a checkpoint with any is refused. None accepts
        every checkpoint.
    """
    self.directory = pathlib.Path(directory).absolute() / 'checkpoints'
    self._differences = differences
    self._files = layout.CheckpointFiles(self.directory)

  def steps(self) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    return agreement.of_first(self._files.steps)

  def best(self) -> dict[str, int]:
    """Returns the best step by the name of its score; see `mark_best`."""

    def read() -> dict[str, int]:
      steps, best = self._files.steps(), self._files.best()
      return {name: s for name, (s, _) in best.items() if s in steps}

    return agreement.of_first(read)

  def meta(self, step: int | None = None) -> dict[str, Any] | None:
    """Returns the JSON saved beside the state, without reading the state.

    Args:
      step: which checkpoint; None for the newest whose manifest is undamaged.

    Returns:
      The `meta` of `save` with 'fingerprint' and 'step' added; None if there
      is no such checkpoint.
    """

    def read() -> dict[str, Any] | None:
      steps = self._files.steps()[::-1] if step is None else [step]
      for candidate in steps:
        try:
          return self._files.read(candidate)[0]['meta']
        except ValueError:
          continue
      return None

    return agreement.of_first(read)

  def saved_params(self, step: int | None = None) -> frozenset[str]:
    """Returns the paths of the parameters in a checkpoint.

    Args:
      step: which checkpoint; None for the newest whole one.

    Raises:
      UserError: see `restore`; or there is no checkpoint.
    """
    body = self._choose(step)
    if body is None:
      raise UserError(f'There is no checkpoint in {self.directory}.')
    return frozenset(
      path.removeprefix(f'{PARAMS}/')
      for path in body['leaves']
      if item_of(path) == PARAMS
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
        mesh of any number of processes, not only the one that saved.
      step: which checkpoint; None for the newest whole one.

    Returns:
      (state, meta), see `meta`; None if there is no checkpoint.

    Raises:
      UserError: `step` does not exist or is damaged, no checkpoint is whole,
        the leaves of state and checkpoint differ (both sides are listed), or
        it belongs to another run.
    """
    return self._restore(abstract_state, step, (PARAMS, TRAINING))

  def restore_params(
    self, abstract_params: Any, step: int | None = None
  ) -> tuple[Any, dict[str, Any]] | None:
    """Reads only the parameters; otherwise like `restore`.

    Args:
      abstract_params: nested dict of `jax.ShapeDtypeStruct`s with shardings. A
        parameter that was saved as float32 may be asked for as bfloat16, to
        predict with half the memory; it is rounded to the nearest. No other
        dtype is converted.
      step: which checkpoint; None for the newest whole one.

    Returns:
      (params, meta), or None if there is no checkpoint.

    Raises:
      UserError: see `restore`.
    """
    restored = self._restore({PARAMS: abstract_params}, step, (PARAMS,))
    return None if restored is None else (restored[0][PARAMS], restored[1])

  def _examine(self, step: int) -> tuple[str | None, dict[str, Any]]:
    """Verifies a checkpoint; every process reads some of its files.

    Returns:
      The first fault, or None; and the manifest's body.
    """

    def read():
      try:
        body, files = self._files.read(step)
      except ValueError as error:
        return str(error), {}, {}
      return None, body, files

    problem, body, files = agreement.of_first(read)
    if problem is not None:
      return problem, body
    index, count = processes.index(), processes.count()
    largest_first = sorted(files, key=lambda name: -files[name][0])
    own_files = {name: files[name] for name in largest_first[index::count]}
    problems = agreement.of_all(
      lambda: layout.problem(self._files.path(step), own_files)
    )
    return next((p for p in problems if p is not None), None), body

  def _choose(self, step: int | None) -> dict[str, Any] | None:
    """Returns the body of the checkpoint to read; see `restore`."""
    started, finished = agreement.of_first(
      lambda: (self._files.started(), self._files.steps())
    )
    if step is not None:
      if step not in started:
        raise UserError(
          f'{self.directory} has no checkpoint of step {step}; it has '
          f'{", ".join(map(str, finished)) or "none"}.'
        )
      problem, body = self._examine(step)
      if problem is not None:
        raise UserError(
          f'Checkpoint {self._files.path(step)} cannot be used: {problem}. '
          f'There are also {[s for s in finished if s != step]}.'
        )
      return body
    skipped = []
    for candidate in started[::-1]:
      problem, body = self._examine(candidate)
      if problem is None:
        for line in skipped:
          _LOG.warning(
            '%s Going on from %s.', line, self._files.path(candidate)
          )
        return body
      skipped.append(f'Checkpoint {self._files.path(candidate)}: {problem}.')
    if finished:
      raise UserError(
        'No checkpoint is whole.\n'
        + '\n'.join(f'  {line}' for line in skipped)
        + '\nMove the directory away to start from the beginning.'
      )
    for line in skipped:
      _LOG.warning('%s There is no other to go on from.', line)
    return None

  def _restore(
    self, abstract: Any, step: int | None, names: Collection[str]
  ) -> tuple[Any, dict[str, Any]] | None:
    body = self._choose(step)
    if body is None:
      return None
    meta = body['meta']
    path = self._files.path(meta['step'])
    if TRAINING in names and not any(
      item_of(leaf) == TRAINING for leaf in body['leaves']
    ):
      raise UserError(
        f'Checkpoint {path} holds parameters alone, without the state of an'
        ' optimiser. Start a run from it in another directory:'
        f' train.initial_checkpoint={self.directory.parent}'
      )
    leaves = trees.flatten(abstract)
    self._check_fingerprint(path, meta['fingerprint'])
    _check_leaves(
      path,
      {k: v for k, v in body['leaves'].items() if item_of(k) in names},
      trees.layout(leaves),
      rounding=TRAINING not in names,
    )
    restored: dict[str, Any] = {}

    def read() -> None:
      with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        for name, tree in layout.to_items(leaves).items():
          args = ocp.args.StandardRestore(tree)
          item = handler.restore(epath.Path(path / name), args=args)
          restored.update(trees.flatten(item))

    agreement.of_all(read)
    state = jax.tree.unflatten(
      jax.tree.structure(abstract), [restored[path] for path in leaves]
    )
    return state, meta

  def _check_fingerprint(
    self, path: pathlib.Path, saved: Mapping[str, Any]
  ) -> None:
    if self._differences and (lines := self._differences(saved)):
      raise UserError(
        f'Checkpoint {path} belongs to another run. What differs:\n'
        + '\n'.join(f'  {line}' for line in lines)
        + '\nUse the configuration it was written with, or another directory.'
      )


def _check_leaves(
  path: pathlib.Path,
  saved: Mapping[str, Any],
  expected: Mapping[str, Any],
  *,
  rounding: bool,
) -> None:
  """Compares two `trees.layout`s; `rounding` lets float32 become bfloat16."""
  if rounding:
    saved = {
      name: ['bfloat16', shape]
      if dtype == 'float32' and expected.get(name, [''])[0] == 'bfloat16'
      else [dtype, shape]
      for name, (dtype, shape) in saved.items()
    }
  differences = trees.differences(saved, expected)
  if differences:
    raise UserError(
      f'Checkpoint {path} holds another model or optimiser.\n'
      + '\n'.join(f'  {line}' for line in differences)
      + '\nUse the configuration it was written with, or another directory.'
    )


def named_steps(checkpoints: CheckpointReader, step: int | str) -> list[int]:
  """Returns the steps that a user names on the command line.

  Args:
    checkpoints: the run's.
    step: a number; 'all'; 'best', by the average score, which is the newest
      while none is marked; or 'best:NAME', by the score of that name, such as a
      task's.

  Raises:
    UserError: there is no such checkpoint.
  """
  steps = checkpoints.steps()
  directory = checkpoints.directory
  if not steps:
    raise UserError(
      f'There is no checkpoint in {directory}. Train first, or name another'
      ' --model_dir.'
    )
  if step == 'all':
    return steps
  kind, colon, name = str(step).partition(':')
  if kind == _BEST:
    best = checkpoints.best()
    if not colon:
      return [best.get(AVERAGE, steps[-1])]
    if name not in best:
      raise UserError(
        f'--step {step}: no checkpoint in {directory} is marked as the best of'
        f' {name!r}; there is a best of'
        f' {", ".join(sorted(best)) or "nothing"}.{closest(name, best)}'
      )
    return [best[name]]
  if int(step) not in steps:
    raise UserError(
      f'There is no checkpoint of step {step} in {directory}; there are'
      f' {steps}.'
    )
  return [int(step)]


def load_params(
  directory: str | os.PathLike[str],
  model: Model,
  fresh: Params,
) -> tuple[Params, list[str]]:
  """Starts a run from the parameters of another one.

  Only what the method adds to T5 may be missing, so that a plain T5 goes into
  any method; everything else must be there, and nothing else.

  Args:
    directory: the other run's; its newest whole checkpoint is read.
    model: the architecture.
    fresh: all of its parameters, with the shardings to restore onto.

  Returns:
    The parameters, and the paths of those that were taken from `fresh`.

  Raises:
    UserError: there is no whole checkpoint, or it has other parameters; both
      sides are listed.
  """
  reader = CheckpointReader(directory)
  missing = model.added - reader.saved_params()
  leaves = trees.flatten(fresh)
  present = {p: leaf for p, leaf in leaves.items() if p not in missing}
  restored, _ = reader.restore_params(trees.unflatten(present))
  merged = {**leaves, **trees.flatten(restored)}
  return trees.unflatten(merged), sorted(missing)
