"""The log of one run: metrics.jsonl, TensorBoard, and how fast input comes."""

from collections.abc import Iterator, Mapping
import json
import os
import pathlib
import time

from tensorboardX import SummaryWriter

from hypergrid_jax import files, types
from hypergrid_jax.data import prefetching


class Log:
  """Appends one JSON object per logged step, and the same to TensorBoard.

  A run that goes on from step n drops what an earlier start had logged after
  n: those steps are done again, and each step stands in the file once.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    start_step: int,
    silent: bool = False,
  ):
    """Opens the files of a run.

    Args:
      directory: the run's directory; made when missing.
      start_step: number of steps already done.
      silent: write nothing, as in all processes of a run but the first.
    """
    directory = pathlib.Path(directory)
    path = directory / 'metrics.jsonl'
    if silent:
      path = pathlib.Path(os.devnull)
    else:
      directory.mkdir(parents=True, exist_ok=True)
      _drop_after(path, start_step)
    self._file = path.open('a', encoding='utf-8')
    self._board = SummaryWriter(
      str(directory / 'tensorboard'),
      purge_step=start_step + 1,
      write_to_disk=not silent,
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of one step to both files.

    Raises:
      ValueError: a value is not finite.
    """
    line = files.to_json({'step': step, **values})
    self._file.write(line + '\n')
    self._file.flush()
    self.write_scalars(step, values)

  def write_scalars(
    self, step: int, values: Mapping[str, float], *, prefix: str = 'train/'
  ) -> None:
    """Writes the values of one step to TensorBoard alone, as PREFIX + name."""
    for name, value in values.items():
      self._board.add_scalar(f'{prefix}{name}', value, step)

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    self._board.close()


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Drops the lines of later steps, and a last line cut by a kill."""
  if not path.exists():
    return
  lines = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      logged = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      break
    if logged > step:
      break
    lines.append(line + '\n')
  files.write_text(path, lines)


class InputMeter:
  """Passes batches on and measures them: tokens, padding, waiting.

  All of it on the host, from the arrays the loader made: measuring does not
  wait for the devices.
  """

  def __init__(
    self,
    batches: prefetching.Prefetcher,
    *,
    share: float = 1.0,
    trained: float = 1.0,
  ):
    """Measures from now on.

    Args:
      batches: the batches of this process.
      share: this process's share of the rows of every batch; the other rows
        are taken to be as full.
      trained: the share of a batch's rows that a step trains on, and that are
        taken to be as full as the others: the tokens of these count.
    """
    self._batches = batches
    self._counted = trained / share
    self._reset()

  def _reset(self):
    self._started = time.perf_counter()
    self._waited = self._batches.wait_seconds
    self._tokens = self._positions = 0

  def __iter__(self) -> Iterator[types.Batch]:
    for batch in self._batches:
      for ids in (batch.encoder_segment_ids, batch.decoder_segment_ids):
        self._tokens += int((ids > 0).sum())
        self._positions += ids.size
      yield batch

  def take(self) -> dict[str, float]:
    """Returns what was measured since the last call."""
    seconds = time.perf_counter() - self._started
    waited = self._batches.wait_seconds - self._waited
    values = {
      'tokens_per_second': self._tokens * self._counted / seconds,
      'padding_fraction': 1 - self._tokens / max(self._positions, 1),
      'input_wait_fraction': min(waited / seconds, 1.0),
    }
    self._reset()
    return values
