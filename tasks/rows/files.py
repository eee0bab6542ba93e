"""Reads JSON lines, TSV and CSV, perhaps compressed, line by line.

What happens to odd text:

* Bytes must be UTF-8. A byte-order mark at the start of a file is dropped.
* A line ends with LF or CR LF, and with nothing else; other line and control
  characters are text. Lines may be of any length; blank lines are skipped.
* Text is never changed: control characters, U+FFFD, surrounding spaces and
  empty fields arrive as they are. A lone surrogate, which UTF-8 cannot hold,
  is refused.
* `.jsonl`: one strict JSON object per line; NaN and Infinity are refused.
* `.tsv`: the first line names the columns; quotes and backslashes are ordinary
  characters, so a field can hold neither tab nor line end.
* `.csv`: RFC 4180 with a line of column names; a field in quotes may hold
  commas, line ends, and quotes written twice. Stray quotes are refused.
* In tables, a nested field is a column such as `idx/question`, and a list is
  written as a JSON list. JSON rows may nest or use the same flat names.
* Fields that the task does not have are ignored.
* Only test splits may be unlabelled: there a label may be -1 or left out, and
  ReCoRD's answers may be empty or left out.
* In a `files:` source, a file whose name has another part before the suffix,
  such as `train.partial.jsonl`, is never read.
"""

from collections.abc import Iterable, Iterator, Mapping
import csv
import gzip
import pathlib
from typing import Any
import zlib

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import fields

SUFFIXES = tuple(
  form + packed for form in ('.jsonl', '.tsv', '.csv') for packed in ('', '.gz')
)

# Of GLUE's and SuperGLUE's files.
_BYTES_PER_ROW = 300
_GZIP_RATIO = 3


def estimated_rows(path: pathlib.Path) -> int:
  """Returns about how many rows a file has, by its size."""
  packed = _GZIP_RATIO if path.suffix == '.gz' else 1
  return packed * path.stat().st_size // _BYTES_PER_ROW


def read(path: pathlib.Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
  """Yields the line number and the unchecked values of every row of a file.

  Args:
    path: with one of `SUFFIXES`, which decides how it is read.

  Yields:
    The number of the line a row begins on, from 1, and its values by name: of a
    JSON row whatever JSON holds, of a table `fields.Cell`s.

  Raises:
    UserError: the file cannot be read or does not have its form; with the line.
  """
  form = path.name.removesuffix('.gz').rpartition('.')[2]
  lines = _lines(path)
  if form == 'jsonl':
    for number, line in lines:
      if line.strip():
        yield number, fields.parse_json_object(line, f'{path}:{number}')
    return
  table = _tsv(lines) if form == 'tsv' else _csv(path, lines)
  columns: list[str] = []
  for number, cells in table:
    where = f'{path}:{number}'
    if not columns:
      columns = _column_names(cells, where)
      continue
    if len(cells) != len(columns):
      raise UserError(
        f'{where}: {len(cells)} fields, but the first line names '
        f'{len(columns)} columns: {", ".join(columns)}.'
      )
    row = zip(columns, map(fields.Cell, cells), strict=True)
    yield number, dict(row)


def _column_names(cells: list[str], where: str) -> list[str]:
  twice = {name for name in cells if cells.count(name) > 1}
  if twice:
    raise UserError(f'{where}: column {min(twice)!r} is named twice.')
  return cells


def _tsv(
  lines: Iterable[tuple[int, str]],
) -> Iterator[tuple[int, list[str]]]:
  for number, line in lines:
    text = line.removesuffix('\n').removesuffix('\r')
    if text:
      yield number, text.split('\t')


def _csv(
  path: pathlib.Path, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, list[str]]]:
  # The module's default limit of 131,072 characters is less than a long row.
  csv.field_size_limit(2**31 - 1)
  reader = csv.reader((line for _, line in lines), strict=True)
  while True:
    first = reader.line_num + 1
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise UserError(
        f'{path}:{first}: not valid CSV: {error}. A field with quotes, commas '
        'or line ends stands in quotes, with the quotes inside written twice.'
      ) from error
    if cells:
      yield first, cells


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line with its end) of a UTF-8 file, perhaps gz."""
  number = 0
  try:
    with (gzip.open if path.name.endswith('.gz') else open)(path, 'rb') as file:
      for number, line in enumerate(file, 1):
        text = _decode(line, f'{path}:{number}')
        yield number, text.removeprefix('\ufeff') if number == 1 else text
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(
      f'{path}:{number + 1}: the gzip data are damaged or cut off here '
      f'({error}). Fetch or compress the file again.'
    ) from error
  except OSError as error:
    raise UserError(f'{path}: cannot be read: {error.strerror}.') from error


def _decode(line: bytes, where: str) -> str:
  try:
    return line.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{where}: not UTF-8: byte {line[error.start]:#04x} at byte '
      f'{error.start + 1} of the line. Convert the file to UTF-8.'
    ) from error
