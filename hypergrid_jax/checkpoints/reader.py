"""Reading the checkpoints of a run; `checkpoint_files` tells what they are."""

from collections.abc import Callable, Collection, Mapping, Sequence
import contextlib
import logging
import pathlib
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import manifest
from hypergrid_jax.checkpoints.layout import CheckpointFiles
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.parallel import agreement, processes

_LOG = logging.getLogger(__name__)
_PARAMS = 'params'
_TRAINING = 'training'
_BEST = 'best'
AVERAGE = 'average'
# From a saved fingerprint to a line for everything that differs.
Differences = Callable[[Mapping[str, Any]], Sequence[str]]


def _item(path: str) -> str:
  return _PARAMS if path.split('/')[0] == _PARAMS else _TRAINING


def to_items(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the Orbax items of a checkpoint as nested dicts."""
  names = sorted({_item(path) for path in leaves})
  return {
    name: trees.unflatten(
      {path: leaf for path, leaf in leaves.items() if _item(path) == name}
    )
    for name in names
  }


class CheckpointReader:
  """The checkpoints of one run directory; changes nothing on disk.

  Every process of a run calls every method, in the same order and with the same
  arguments: process 0 looks at the files and tells the others, so that all go
  on from the same checkpoint whatever each of them sees.

  Attributes:
    directory: where the checkpoints are, `checkpoints` in the run directory.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    differences: Differences | None = None,
  ):
    """Touches no file.

    Args:
      directory: the run directory; it need not exist.
      differences: returns a line for everything in which the fingerprint that a
        checkpoint was saved with differs from this run's; such a checkpoint is
        refused. None takes any.
    """
    self.directory = pathlib.Path(directory).absolute() / 'checkpoints'
    self._differences = differences
    self._files = CheckpointFiles(self.directory)

  def steps(self) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    return agreement.of_first(self._files.steps)

  def latest(self) -> int | None:
    """Returns the step of the newest finished checkpoint."""
    return max(self.steps(), default=None)

  def best(self, name: str = AVERAGE) -> int | None:
    """Returns the step that `mark_best` found best, if it is still there."""
    return self.all_best().get(name)

  def all_best(self) -> dict[str, int]:
    """Returns the best step of everything that `mark_best` was told of."""

    def look() -> dict[str, int]:
      steps, best = self._files.steps(), self._files.best()
      return {name: s for name, (s, _) in best.items() if s in steps}

    return agreement.of_first(look)

  def meta(self, step: int | None = None) -> dict[str, Any] | None:
    """Returns what was saved beside the state, reading nothing else.

    Args:
      step: which checkpoint; None for the newest whose manifest is undamaged.

    Returns:
      The `meta` of `save` with 'fingerprint' and 'step' added; None if there
      is no such checkpoint.
    """

    def look() -> dict[str, Any] | None:
      steps = self._files.steps()[::-1] if step is None else [step]
      for candidate in steps:
        try:
          return self._files.read(candidate)[0]['meta']
        except ValueError:
          continue
      return None

    return agreement.of_first(look)

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
      path.removeprefix(f'{_PARAMS}/')
      for path in body['leaves']
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
        mesh of any number of processes, not only the one that saved.
      step: which checkpoint; None for the newest whole one.

    Returns:
      (state, meta), see `meta`; None if there is no checkpoint.

    Raises:
      UserError: `step` does not exist or is damaged, no checkpoint is whole,
        the leaves of state and checkpoint differ (both sides are listed), or
        it belongs to another run.
    """
    return self._restore(abstract_state, step, (_PARAMS, _TRAINING))

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
    found = self._restore({_PARAMS: abstract_params}, step, (_PARAMS,))
    return None if found is None else (found[0][_PARAMS], found[1])

  def _examine(self, step: int) -> tuple[str | None, dict[str, Any]]:
    """Has every process read its share of a checkpoint's files.

    Returns:
      What is wrong, or None; and the manifest's body.
    """

    def look():
      try:
        body, files = self._files.read(step)
      except ValueError as error:
        return str(error), {}, {}
      return None, body, files

    problem, body, files = agreement.of_first(look)
    if problem is not None:
      return problem, body
    index, count = processes.index(), processes.count()
    largest_first = sorted(files, key=lambda name: -files[name][0])
    share = {name: files[name] for name in largest_first[index::count]}
    problems = agreement.of_all(
      lambda: manifest.problem(self._files.path(step), share)
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
    if _TRAINING in names and not any(
      _item(leaf) == _TRAINING for leaf in body['leaves']
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
      {k: v for k, v in body['leaves'].items() if _item(k) in names},
      trees.layout(leaves),
      rounding=_TRAINING not in names,
    )
    found: dict[str, Any] = {}

    def read() -> None:
      with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        for name, tree in to_items(leaves).items():
          args = ocp.args.StandardRestore(tree)
          restored = handler.restore(epath.Path(path / name), args=args)
          found.update(trees.flatten(restored))

    agreement.of_all(read)
    state = jax.tree.unflatten(
      jax.tree.structure(abstract), [found[path] for path in leaves]
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
  wanted: Mapping[str, Any],
  *,
  rounding: bool,
) -> None:
  """Compares two layouts; `rounding` lets float32 become bfloat16."""
  if rounding:
    saved = {
      name: ['bfloat16', shape]
      if dtype == 'float32' and wanted.get(name, [''])[0] == 'bfloat16'
      else [dtype, shape]
      for name, (dtype, shape) in saved.items()
    }
  differences = trees.differences(saved, wanted)
  if differences:
    raise UserError(
      f'Checkpoint {path} holds another model or optimiser.\n'
      + '\n'.join(f'  {line}' for line in differences)
      + '\nUse the configuration it was written with, or another directory.'
    )


def named_steps(checkpoints: CheckpointReader, step: int | str) -> list[int]:
  """Returns the steps that a person names.

  Args:
    checkpoints: of a run.
    step: a number; 'all'; 'best', by the average, which is the newest while
      none is marked; or 'best:NAME', by what `mark_best` was told under that
      name, such as a task's.

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
    best = checkpoints.all_best()
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
