"""Where rows come from: local files, the sample corpus, prepared TFDS data.

A source is named by a text: `sample`, `tfds`, or `files:DIR`, where DIR holds
`{glue,super_glue}/<config>/<split>.{jsonl,tsv,csv}[.gz]` with TFDS's field
names. Every source gives the same rows: dicts with the fields of the task's
definition, in the order of the source. Nothing here loads TensorFlow; TFDS
rows themselves are read by `tasks.seqio.registry`. A task that brings its own
rows (`TaskDefinition.rows`) has the same ones under every source.

Files are read as `tasks.rows.files` says; their fields are checked by
`tasks.rows.fields`.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks.rows import fields, files

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
  """A source of rows, read from its name.

  Attributes:
    kind: 'files', 'sample' or 'tfds'.
    directory: DIR of `files:DIR`; None for the other kinds.
  """

  kind: str
  directory: pathlib.Path | None = None


def parse_source(text: str) -> Source:
  """Reads a source's name: 'sample', 'tfds' or 'files:DIR'.

  Raises:
    UserError: the text names no source, or DIR is not a directory.
  """
  if text in ('sample', 'tfds'):
    return Source(text)
  kind, separator, directory = text.partition(':')
  if kind != 'files' or not separator:
    hint = closest(kind, ('sample', 'tfds', 'files'))
    raise UserError(
      f'Unknown data source {text!r}.{hint} '
      "Expected 'sample', 'tfds', or 'files:DIR'."
    )
  if not directory:
    raise UserError("Data source 'files:' names no directory: 'files:DIR'.")
  path = pathlib.Path(directory).expanduser()
  if not path.is_dir():
    raise UserError(
      f"Data source '{text}': {path} is not a directory (working directory: "
      f'{pathlib.Path.cwd()}).'
    )
  return Source('files', path)


def read_rows(source: str, definition: Any, split: str) -> Iterator[Row]:
  """Reads the rows of one split, checked field by field.

  Args:
    source: 'files:DIR' or 'sample'. Rows of 'tfds' need TensorFlow; the seqio
      task reads them.
    definition: a `hypergrid_jax.tasks.definitions.TaskDefinition`.
    split: one of the definition's splits.

  Returns:
    An iterator of dicts with exactly the definition's fields, nested as in
    TFDS, as str, list of str, int and float, in the source's order. Errors in
    rows are raised when the row is reached.

  Raises:
    UserError: the split is missing or empty, or a row is not as the definition
      says; with file and line.
  """
  if definition.rows is not None:
    return definition.rows.read(split)
  parsed = parse_source(source)
  if parsed.kind == 'tfds':
    raise ValueError("read_rows reads 'files:DIR' and 'sample', not 'tfds'")
  if parsed.kind == 'sample':
    return iter(_sample_rows(definition, split))
  path = find_file(parsed.directory, definition, split)
  return _checked_rows(path, definition, split)


def available_splits(source: str, definition: Any) -> dict[str, str]:
  """Returns the splits that a source has for a task, and where each lies.

  For 'tfds' all of the task's splits are given when nothing is prepared yet,
  because they can be downloaded; the description says which case it is.

  Args:
    source: 'files:DIR', 'sample' or 'tfds'.
    definition: a task's definition.

  Returns:
    Split name to a path or description, in the definition's order; empty when
    the source has nothing of the task.

  Raises:
    UserError: the source does not exist, or a split is there twice.
  """
  if definition.rows is not None:
    return dict(definition.rows.splits())
  parsed = parse_source(source)
  if parsed.kind == 'sample':
    from hypergrid_jax.tasks import sample

    there = sample.splits(definition.benchmark, definition.config)
    return {
      split: f'sample corpus {sample.VERSION}'
      for split in definition.splits
      if split in there
    }
  if parsed.kind == 'tfds':
    prepared = _tfds_splits(definition)
    where = tfds_directory(definition)
    if prepared is None:
      return dict.fromkeys(definition.splits, f'not prepared yet: {where}')
    return {
      split: str(where) for split in definition.splits if split in prepared
    }
  folder = parsed.directory / definition.benchmark / definition.config
  return {
    split: str(find_file(parsed.directory, definition, split))
    for split in definition.splits
    if _candidates(folder, split)
  }


def source_fingerprint(source: str, definition: Any, split: str) -> str:
  """Returns a text that changes when the rows of a split may have changed.

  Files are identified by their bytes, the sample corpus by its generator's
  version, TFDS by its version, its directory and the directory's description.

  Args:
    source: 'files:DIR', 'sample' or 'tfds'.
    definition: a task's definition.
    split: one of its splits.

  Raises:
    UserError: the split is not there.
  """
  if definition.rows is not None:
    return definition.rows.fingerprint(split)
  parsed = parse_source(source)
  task = f'{definition.benchmark}/{definition.config}/{split}'
  if parsed.kind == 'sample':
    from hypergrid_jax.tasks import sample

    return f'sample {sample.VERSION} {task}'
  digest = hashlib.sha256()
  if parsed.kind == 'tfds':
    directory = tfds_directory(definition)
    info = directory / 'dataset_info.json'
    digest.update(str(directory).encode())
    digest.update(info.read_bytes() if info.exists() else b'not prepared')
    return f'tfds {definition.tfds} {split} {digest.hexdigest()}'
  path = find_file(parsed.directory, definition, split)
  digest.update(path.name.encode())
  with path.open('rb') as file:
    hashlib.file_digest(file, lambda: digest)
  return f'files {task} {digest.hexdigest()}'


def num_examples(source: str, definition: Any, split: str) -> int | None:
  """Returns the number of rows of a split where that is cheap to know.

  Args:
    source: 'files:DIR', 'sample' or 'tfds'.
    definition: a task's definition.
    split: one of its splits.

  Returns:
    The number of rows before any preprocessing; None for files, which would
    have to be read, and for TFDS data that are not prepared.
  """
  if definition.rows is not None:
    return definition.rows.count(split)
  parsed = parse_source(source)
  if parsed.kind == 'sample':
    return len(_sample_rows(definition, split))
  if parsed.kind == 'tfds':
    return (_tfds_splits(definition) or {}).get(split)
  return None


def tfds_data_dir() -> str:
  """Returns TFDS's data directory: TFDS_DATA_DIR, or the one in the home."""
  return os.environ.get('TFDS_DATA_DIR') or os.path.join(
    os.path.expanduser('~'), 'tensorflow_datasets'
  )


def tfds_directory(definition: Any, data_dir: str | None = None):
  """Returns the directory in which TFDS keeps a task's prepared data.

  Args:
    definition: a task's definition.
    data_dir: TFDS data directory, local or in a bucket; by default the one
      that TFDS uses.
  """
  # The path class that TFDS itself uses: it reaches buckets as well.
  from etils import epath

  name, version = definition.tfds.split(':')
  return epath.Path(data_dir or tfds_data_dir()) / name / version


def find_file(
  directory: pathlib.Path, definition: Any, split: str
) -> pathlib.Path:
  """Finds the file of one split below the directory of a `files:` source.

  Raises:
    UserError: there is none, or more than one; the message lists what was
      looked for and what is there.
  """
  folder = directory / definition.benchmark / definition.config
  found = _candidates(folder, split)
  if len(found) > 1:
    raise UserError(
      f'{definition.name}, split {split!r}: several files could be meant: '
      f'{", ".join(path.name for path in found)} in {folder}. Keep one.'
    )
  if found:
    return found[0]
  looked = f'{folder}/{split}.{{jsonl,tsv,csv}}[.gz]'
  raise UserError(
    f'{definition.name}, split {split!r}: no file. Looked for {looked}. '
    f'{_what_is_there(folder, split)}'
  )


def _candidates(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
  paths = (folder / (split + suffix) for suffix in files.SUFFIXES)
  return [path for path in paths if path.is_file()]


def _what_is_there(folder: pathlib.Path, split: str) -> str:
  if not folder.is_dir():
    above = folder.parent
    if not above.is_dir():
      return f'There is no directory {above}.'
    others = sorted(path.name for path in above.iterdir() if path.is_dir())
    hint = closest(folder.name, others)
    return (
      f'There is no directory {folder}.{hint} {above} has: '
      f'{", ".join(others) or "nothing"}.'
    )
  names = sorted(path.name for path in folder.iterdir())
  partial = [name for name in names if name.startswith(f'{split}.partial.')]
  note = (
    f' {partial[0]} is incomplete by its name and is never used; put the '
    f'complete split at {split}{partial[0].removeprefix(split + ".partial")}.'
    if partial
    else closest(f'{split}.jsonl', names)
  )
  return f'The directory has: {", ".join(names) or "nothing"}.{note}'


def _sample_rows(definition: Any, split: str) -> list[Row]:
  from hypergrid_jax.tasks import sample

  there = sample.splits(definition.benchmark, definition.config)
  if split not in there:
    raise UserError(
      f'{definition.name}: the sample corpus has no split {split!r}; it has: '
      f'{", ".join(there) or "nothing of this task"}.'
    )
  return sample.rows(definition.benchmark, definition.config, split)


def _tfds_splits(definition: Any) -> dict[str, int] | None:
  """Returns the sizes of the prepared splits, None when nothing is prepared."""
  info = tfds_directory(definition) / 'dataset_info.json'
  if not info.exists():
    return None
  splits = json.loads(info.read_text()).get('splits', [])
  return {
    split['name']: sum(int(length) for length in split.get('shardLengths', []))
    for split in splits
  }


def _checked_rows(
  path: pathlib.Path, definition: Any, split: str
) -> Iterator[Row]:
  count = 0
  for line, values in files.read(path):
    where = f'{path}:{line}'
    yield fields.checked_row(values, definition, split=split, where=where)
    count += 1
  if not count:
    raise UserError(f'{path}: the split {split!r} has no rows.')
