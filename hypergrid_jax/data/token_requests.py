"""What a token store is made of, and the fingerprint that follows from it.

Nothing here loads TensorFlow: whether a ready store can be used is known
without it.
"""

import dataclasses
import hashlib
from importlib import metadata
import json
import pathlib
import re

from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.tasks.vocabularies import Vocabulary

# Raise when the content or the files of a store change their meaning.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TokenRequest:
  """One split of one task as token ids.

  Attributes:
    task: name of a task that `definitions` knows.
    split: of the task.
    source: 'sample', 'tfds' or 'files:DIR'; a task that brings its own rows
      reads those.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    lengths: tokens that inputs and targets are cut to.
    task_file: the file or module that defines the task, for processes that do
      not know it yet; None for the tasks of this package.
    part: which rows of the split, as `tasks.protocols` names them; '' for all.
    task_prefix: whether texts begin with the name of their data set.
  """

  task: str
  split: str
  source: str
  vocabulary: str
  lengths: tuple[int, int]
  task_file: str | None = None
  part: str = ''
  task_prefix: bool = True

  @property
  def label(self) -> str:
    """Task, split and part as they appear in messages."""
    return f'{self.task}/{self.split}{self.part}'

  def directory(self, root: pathlib.Path, fingerprint: str) -> pathlib.Path:
    """Returns where the store lies below the token directory."""
    split = _plain(self.split + self.part)
    return root / _plain(self.task) / f'{split}-{fingerprint[:16]}'


def fingerprint(request: TokenRequest, vocabulary: Vocabulary) -> str:
  """Returns a text that changes when the tokens may have changed.

  Args:
    request: what is wanted.
    vocabulary: the loaded `request.vocabulary`.

  Raises:
    UserError: there is no such task, or the source does not have the split.
  """
  task = definitions.definition(request.task)
  sample = request.source == 'sample' and task.rows is None
  parts = {
    'format': FORMAT,
    'task': request.task,
    'split': request.split,
    'part': request.part,
    'task_prefix': request.task_prefix,
    'lengths': list(request.lengths),
    'vocabulary': vocabulary.fingerprint,
    'rows': sources.source_fingerprint(request.source, task, request.split),
    'code': _code_fingerprint(sample=sample),
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
  folder = pathlib.Path(definitions.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(folder.rglob('*.py')):
    name = path.relative_to(folder).as_posix()
    if sample or not name.startswith('sample/'):
      digest.update(name.encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()
