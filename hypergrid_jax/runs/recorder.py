"""metrics.jsonl and TensorBoard of one run."""

import json
import os
import pathlib
from typing import Any

from tensorboardX import SummaryWriter

from hypergrid_jax import files
from hypergrid_jax.evaluation import prediction_files


class Recorder:
  """Appends one JSON object per logged step, and the same to TensorBoard.

  A run that goes on from step n drops what an earlier start had logged after
  n: those steps are done again, and each step stands in the file once.
  """

  def __init__(self, directory: str | os.PathLike[str], *, start_step: int):
    """Opens the files of the run in `directory`.

    Args:
      directory: of the run; made when missing.
      start_step: steps already done.
    """
    self._path = pathlib.Path(directory) / 'metrics.jsonl'
    self._path.parent.mkdir(parents=True, exist_ok=True)
    _keep_until(self._path, start_step)
    self._file = self._path.open('a', encoding='utf-8')
    self._board = SummaryWriter(
      str(self._path.parent / 'tensorboard'), purge_step=start_step + 1
    )

  def log(self, step: int, values: dict[str, Any]) -> None:
    """Writes one line; nested values such as loss/<task> stay flat keys."""
    line = prediction_files.to_json({'step': step, **values})
    self._file.write(line + '\n')
    self._file.flush()
    self.scalars(step, values)

  def scalars(self, step: int, values: dict[str, Any], prefix='train/') -> None:
    """Writes numbers to TensorBoard alone."""
    for name, value in values.items():
      self._board.add_scalar(f'{prefix}{name}', value, step)

  def close(self) -> None:
    """Flushes and closes both."""
    self._file.close()
    self._board.close()


class Silent:
  """Records nothing: what processes other than the first have."""

  def log(self, step: int, values: dict[str, Any]) -> None:
    """Does nothing."""

  def scalars(self, step: int, values: dict[str, Any], prefix='train/') -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def _keep_until(path: pathlib.Path, step: int) -> None:
  """Drops the lines of later steps, and a last line cut by a kill."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      logged = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      break
    if logged > step:
      break
    kept.append(line + '\n')
  files.write_text(path, kept)
