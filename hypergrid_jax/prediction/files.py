"""`hypergrid predict`: a file of rows to a file of predictions.

Rows are read twice: to check every one of them before the model is loaded, and
to predict, some thousand at a time. Predictions are appended to
`OUTPUT.partial`, which becomes OUTPUT when it is whole; beside it,
`OUTPUT.partial.json` says what it is made from, so that a run that was stopped
can go on. Of several processes, which all predict together, the first writes.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import typing
from typing import Any

from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors, files
from hypergrid_jax.parallel import agreement, processes
from hypergrid_jax.prediction import loaded_model, requests

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# Rows that are formatted at once: each call of a task's preprocessors costs a
# quarter of a second, however few rows it is given.
_FORMATTED = 4096
_BATCHES_WRITTEN = 16  # decoded between two writes


def predict_file(
  run: 'RunConfig',
  model_dir: str | os.PathLike[str],
  source: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  step: int | str = 'best',
  overwrite: bool = False,
  resume: bool = False,
  console: Console,
) -> None:
  """Predicts the rows of a file, in order.

  Args:
    run: the run's own configuration.
    model_dir: the run's directory.
    source: JSON lines, see `requests`.
    output: JSON lines, see `requests.answer`.
    step: a step number, 'best' or 'best:TASK'.
    overwrite: whether to replace an output, whole or partial.
    resume: whether to go on with a partial output.
    console: shows progress.

  Raises:
    UserError: a row is not as it should be; the output exists, or belongs to
      other rows or another checkpoint. Nothing that was there is changed.
  """
  source, output = pathlib.Path(source), pathlib.Path(output)
  agreement.of_first(
    lambda: _check_output(source, output, overwrite=overwrite, resume=resume)
  )
  trained = loaded_model.read_run(run, model_dir)
  total, digest = _check_rows(requests.read(source, trained.tasks))
  if not total:
    raise errors.UserError(f'{source}: there are no rows in it.')
  rows = requests.read(source, trained.tasks)
  if resume and agreement.of_first(output.exists):
    agreement.of_first(lambda: _check_whole(output, rows, total))
    console_lib.say(
      console, f'{output} has the predictions of all {total:,} rows already.'
    )
    return
  model = loaded_model.LoadedModel(trained, step=step)
  origin = {
    'input': digest,
    'rows': total,
    'model': model.fingerprint,
    'step': model.step,
    'max_decode_length': model.max_decode_length,
  }
  with _storage_errors(output):
    done = agreement.of_first(
      lambda: _begin(output, origin, rows, resume=resume)
    )
    if not processes.is_first():
      rows = itertools.islice(rows, done, None)
    with console_lib.bar(console, 'predicting', total, done=done) as bar:
      for row_answers in _answers(model, rows):
        if processes.is_first():
          if not done:  # before this, nothing is worth going on with
            _write_origin(output, origin)
          _append(_partial(output), row_answers)
        done += len(row_answers)
        bar.update(done)
    agreement.of_first(lambda: _finish(output))
  console_lib.say(
    console, f'{total:,} predictions of step {model.step} are in {output}.'
  )


def _finish(output: pathlib.Path):
  os.replace(_partial(output), output)
  _origin(output).unlink()


def _partial(output: pathlib.Path) -> pathlib.Path:
  return output.with_name(f'{output.name}.partial')


def _origin(output: pathlib.Path) -> pathlib.Path:
  return output.with_name(f'{output.name}.partial.json')


def _check_output(
  source: pathlib.Path, output: pathlib.Path, *, overwrite: bool, resume: bool
):
  """Refuses to lose what is there."""
  if overwrite and resume:
    raise errors.UserError('--overwrite and --resume exclude each other.')
  if output.is_dir():
    raise errors.UserError(f'{output} is a directory; expected a file name.')
  if output.exists() and source.exists() and output.samefile(source):
    raise errors.UserError(f'{output} is the input; name another output.')
  if output.exists() and not (overwrite or resume):
    raise errors.UserError(
      f'{output} exists already. Name another output, or pass --overwrite to'
      ' replace it.'
    )
  if _partial(output).exists() and not (overwrite or resume):
    raise errors.UserError(
      f'{_partial(output)} was left by a run that was stopped. Pass --resume to'
      ' go on with it, or --overwrite to start anew.'
    )


def _check_rows(rows: Iterator[requests.Row]) -> tuple[int, str]:
  """Reads all rows; returns their number and a digest of them."""
  count, digest = 0, hashlib.sha256()
  for row in rows:
    count += 1
    content = [row.id, row.task.name, row.text, row.fields]
    digest.update(json.dumps(content, sort_keys=True).encode())
  return count, digest.hexdigest()


def _begin(
  output: pathlib.Path,
  origin: Mapping[str, Any],
  rows: Iterator[requests.Row],
  *,
  resume: bool,
) -> int:
  """Makes the partial output ready, and skips the rows that it has.

  Returns:
    How many rows it has.
  """
  partial = _partial(output)
  output.parent.mkdir(parents=True, exist_ok=True)
  if resume and partial.exists():
    _check_origin(output, origin)
    return _skip(partial, rows)
  partial.unlink(missing_ok=True)
  return 0


def _write_origin(output: pathlib.Path, origin: Mapping[str, Any]):
  text = files.to_json(dict(origin), indent=2)
  files.write_text(_origin(output), [text, '\n'])


def _check_origin(output: pathlib.Path, origin: Mapping[str, Any]):
  """Refuses to go on with what was made from something else."""
  path = _origin(output)
  try:
    there = json.loads(path.read_bytes())
    different = [name for name in origin if there.get(name) != origin[name]]
  except (OSError, ValueError, AttributeError) as error:
    raise errors.UserError(
      f'{path} cannot be read ({error}), so that it is not known what'
      f' {_partial(output).name} was made from. Pass --overwrite to start anew.'
    ) from error
  if different:
    raise errors.UserError(
      f'{_partial(output)} was made from something else: it differs in'
      f' {", ".join(different)}. Pass --overwrite to start anew, or name'
      ' another output.'
    )


def _check_whole(
  output: pathlib.Path, rows: Iterator[requests.Row], total: int
):
  """Refuses an output that is not of these rows."""
  done, size = _answered(output, rows)
  if done != total or size != output.stat().st_size:
    raise errors.UserError(
      f'{output} has predictions for {done:,} of {total:,} rows of the input.'
      ' Name another output, or pass --overwrite to replace it.'
    )


def _skip(partial: pathlib.Path, rows: Iterator[requests.Row]) -> int:
  """Reads over the rows whose predictions are there; cuts a torn last line."""
  done, size = _answered(partial, rows)
  os.truncate(partial, size)
  return done


def _answered(
  path: pathlib.Path, rows: Iterator[requests.Row]
) -> tuple[int, int]:
  """Returns how many rows have an answer in a file, and in how many bytes."""
  done = size = 0
  with path.open('rb') as file:
    for line in file:
      if not line.endswith(b'\n'):
        break
      row = next(rows, None)
      if row is None or not _answers_row(line, row):
        raise errors.UserError(
          f'{path}:{done + 1}: this is no prediction for row {done + 1} of the'
          ' input. Name another output, or pass --overwrite to start anew.'
        )
      done += 1
      size += len(line)
  return done, size


def _answers_row(line: bytes, row: requests.Row) -> bool:
  """Whether a line of an output is an answer to a row."""
  try:
    answer = json.loads(line)
    return (answer['id'], answer['task']) == (row.id, row.task.name)
  except (ValueError, KeyError, TypeError):
    return False


def _answers(
  model: loaded_model.LoadedModel, rows: Iterator[requests.Row]
) -> Iterator[list[dict[str, Any]]]:
  """Yields the answers to all rows, in order, some at a time."""
  while formatted := list(itertools.islice(rows, _FORMATTED)):
    inputs = model.inputs(formatted)
    size = _BATCHES_WRITTEN * model.batch_size
    for start in range(0, len(formatted), size):
      end = start + size
      yield model.answers(formatted[start:end], inputs[start:end])


def _append(path: pathlib.Path, rows: list[dict[str, Any]]):
  with path.open('a', encoding='utf-8', newline='\n') as file:
    file.writelines(files.to_json(row) + '\n' for row in rows)
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _storage_errors(output: pathlib.Path) -> Iterator[None]:
  """Refuses an output that cannot be written, and says what to do."""
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f'{output} cannot be written ({error.strerror}). Make room, or name'
      ' another output; --resume goes on with what is in'
      f' {_partial(output).name}.'
    ) from error
