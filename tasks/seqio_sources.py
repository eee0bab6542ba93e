"""seqio data sources for the tasks: rows in memory, and prepared TFDS data.

Both give TFDS's types: text and lists of text as strings, labels int64, other
integers int32, scores float32.
"""

from collections.abc import Sequence
import logging
from typing import Any
import urllib.error
import urllib.request

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from hypergrid_jax.data import sources
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.definitions import TaskDefinition

# The server of nearly all files that TFDS fetches for GLUE and SuperGLUE.
DOWNLOAD_SERVER = 'https://dl.fbaipublicfiles.com'
_PROBE_SECONDS = 10
_DTYPES = {
  'text': tf.string,
  'integer': tf.int32,
  'label': tf.int64,
  'score': tf.float32,
}

logger = logging.getLogger(__name__)


def split_names(task: TaskDefinition) -> dict[str, str]:
  """Returns the names that seqio may ask for, and the split each stands for.

  seqio evaluates a mixture on one split name, so that a task with splits of its
  own, such as 'validation_matched', answers to 'validation' and 'test' too.
  """
  names = {split: split for split in task.splits}
  if task.eval_splits:
    names.setdefault('validation', task.eval_splits[0])
  if task.test_split:
    names.setdefault('test', task.test_split)
  return names


class RowsSource(seqio.DataSource):
  """Rows of `files:DIR` or `sample`, checked and then held in memory.

  Every row of a split is read before the first example is given, so that a
  malformed row is reported as such and not by a TensorFlow operation.
  """

  def __init__(self, task: TaskDefinition, source: str):
    """Makes the source; nothing is read yet.

    Args:
      task: the task's definition.
      source: 'files:DIR' or 'sample'.

    Raises:
      UserError: the source does not exist.
    """
    sources.parse_source(source)
    self._task = task
    self._source = source
    self._names = split_names(task)
    super().__init__(splits=self._names)

  def __repr__(self) -> str:
    return f'RowsSource({self._task.name!r}, {self._source!r})'

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: a split is one shard."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the split itself, the only shard."""
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    """Returns the number of rows where the source knows it, else None."""
    return sources.num_examples(self._source, self._task, self._names[split])

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns the split's rows, in the source's order unless shuffled.

    Args:
      split: a name of `splits`.
      shuffle: whether to shuffle all rows.
      seed: of the shuffle.
      shard_info: only the single shard that there is.
      **unused: what seqio passes to sources that cache or trim.

    Raises:
      UserError: the split is missing or empty, or a row is malformed.
    """
    del unused
    if shard_info and shard_info.num_shards > 1:
      raise ValueError('a split of rows is a single shard')
    stored = self._names[split]
    rows = list(sources.read_rows(self._source, self._task, stored))
    dataset = tf.data.Dataset.from_tensor_slices(_tensors(rows, self._task))
    if shuffle:
      dataset = dataset.shuffle(len(rows), seed=seed)
    return _trained_rows(dataset, self._task, stored)


class TfdsSource(seqio.TfdsDataSource):
  """TFDS data that are prepared, or are prepared after saying so.

  seqio's own source retries a download for minutes without a word where there
  is no network.
  """

  def __init__(
    self,
    task: TaskDefinition,
    *,
    data_dir: str | None = None,
    allow_download: bool,
  ):
    """Makes the source; nothing is read yet.

    Args:
      task: the task's definition.
      data_dir: TFDS data directory; None for TFDS's default.
      allow_download: whether missing data may be downloaded and prepared.
    """
    self._task = task
    self._allow_download = allow_download
    super().__init__(
      task.tfds,
      tfds_data_dir=data_dir,
      splits=split_names(task),
      read_only=True,
    )

  def get_dataset(
    self, split: str = 'train', *args: Any, **kwargs: Any
  ) -> tf.data.Dataset:
    """Returns the split's rows; see `seqio.TfdsDataSource.get_dataset`.

    Raises:
      UserError: the data are not prepared, and a download is not allowed, or
        failed.
    """
    self._require()
    dataset = super().get_dataset(split, *args, **kwargs)
    return _trained_rows(dataset, self._task, split)

  def num_input_examples(self, split: str) -> int | None:
    """Returns the number of rows; see `get_dataset` for what is raised."""
    self._require()
    return super().num_input_examples(split)

  def _require(self) -> None:
    data_dir = self.tfds_dataset.data_dir or tfds.core.constants.DATA_DIR
    directory = sources.tfds_directory(self._task, data_dir)
    if (directory / 'dataset_info.json').exists():
      return
    name = self._task.tfds
    if not self._allow_download:
      raise _not_prepared(name, data_dir, directory, 'downloads are off')
    logger.warning(
      '%s is not prepared in %s: downloading from %s (once)',
      name,
      data_dir,
      DOWNLOAD_SERVER,
    )
    try:
      _probe(DOWNLOAD_SERVER)
      tfds.builder(name, data_dir=data_dir).download_and_prepare()
    except Exception as error:
      reason = f'the download failed: {type(error).__name__}: {error}'
      raise _not_prepared(name, data_dir, directory, reason) from error


def _not_prepared(
  name: str, data_dir: Any, directory: Any, reason: str
) -> UserError:
  config = directory.parent
  others = (
    sorted(path.name for path in config.iterdir()) if config.exists() else []
  )
  found = f' (other versions are: {", ".join(others)})' if others else ''
  return UserError(
    f'TFDS data {name} are not prepared: there is no {directory}{found}, and '
    f'{reason}. Either prepare them where there is a network:\n'
    '  python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('{name}', data_dir='{data_dir}')"
    '.download_and_prepare()"\n'
    'or set TFDS_DATA_DIR to a directory that has them, or use '
    '--data_source=files:DIR or --data_source=sample.'
  )


def _probe(url: str) -> None:
  """Raises OSError when a server does not answer within seconds."""
  request = urllib.request.Request(url, method='HEAD')
  try:
    with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
      return
  except urllib.error.HTTPError:
    return  # An answer, whatever it says.


def _trained_rows(
  dataset: tf.data.Dataset, task: TaskDefinition, split: str
) -> tf.data.Dataset:
  if split != task.train_split or task.train_label is None:
    return dataset
  return dataset.filter(lambda row: tf.equal(row['label'], task.train_label))


def _tensors(rows: list[sources.Row], task: TaskDefinition) -> dict[str, Any]:
  """Returns the rows' columns, nested as in a row."""
  columns: dict[str, Any] = {}
  for name, kind in task.fields.items():
    outer, _, inner = name.partition('/')
    values = [row[outer][inner] if inner else row[outer] for row in rows]
    if kind == 'texts':
      column = tf.RaggedTensor.from_row_lengths(
        tf.constant([text for texts in values for text in texts], tf.string),
        [len(texts) for texts in values],
      )
    else:
      column = tf.constant(values, _DTYPES[kind])
    if inner:
      columns.setdefault(outer, {})[inner] = column
    else:
      columns[outer] = column
  return columns
