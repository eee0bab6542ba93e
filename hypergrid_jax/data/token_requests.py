"""What a token store is made of, and the fingerprint that follows from it.

Nothing here loads TensorFlow: whether a ready store can be used is known
without it.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
from importlib import metadata
import json
import pathlib
import re

from hypergrid_jax.data import fields, sources
from hypergrid_jax.data.vocabularies import Vocabulary
from hypergrid_jax.tasks import definitions

# Raise when the content or the files of a store change their meaning.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TokenRequest:
  """One split of one task as token ids.

  Attributes:
    task: name of one of our tasks, or of one registered with seqio.
    split: of the task.
    source: 'sample', 'tfds' or 'files:DIR'; a task registered with seqio by
      somebody else reads its own.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    lengths: tokens that inputs and targets are cut to.
  """

  task: str
  split: str
  source: str
  vocabulary: str
  lengths: tuple[int, int]

  @property
  def label(self) -> str:
    """Task and split as they appear in messages."""
    return f'{self.task}/{self.split}'

  def directory(self, root: pathlib.Path, fingerprint: str) -> pathlib.Path:
    """Returns where the store lies below the token directory."""
    return root / _plain(self.task) / f'{_plain(self.split)}-{fingerprint[:16]}'


def fingerprint(request: TokenRequest, vocabulary: Vocabulary) -> str:
  """Returns a text that changes when the tokens may have changed.

  Args:
    request: what is wanted.
    vocabulary: the loaded `request.vocabulary`.

  Raises:
    UserError: the source does not have the split.
  """
  task = definitions.DEFINITIONS.get(request.task)
  # The rows of a task that somebody else registered are known to seqio only;
  # reading them here would load TensorFlow.
  rows = 'its own'
  if task is not None:
    rows = sources.source_fingerprint(request.source, task, request.split)
  parts = {
    'format': FORMAT,
    'task': request.task,
    'split': request.split,
    'lengths': list(request.lengths),
    'vocabulary': vocabulary.fingerprint,
    'rows': rows,
    'code': _code_fingerprint(sample=request.source == 'sample'),
    'versions': {name: _version(name) for name in ('seqio', 't5')},
  }
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _plain(name: str) -> str:
  return re.sub(r'[^\w.-]', '_', name)


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return 'absent'


def _code_fingerprint(*, sample: bool) -> str:
  """Hashes the code that turns rows into text."""
  digest = hashlib.sha256()
  for path in _code_files(sample=sample):
    digest.update(path.name.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _code_files(*, sample: bool) -> Iterator[pathlib.Path]:
  folder = pathlib.Path(definitions.__file__).parent
  yield from sorted(folder.glob('*.py'))
  if sample:
    yield from sorted((folder / 'sample').glob('*.py'))
  yield pathlib.Path(fields.__file__)
  yield pathlib.Path(sources.__file__)
