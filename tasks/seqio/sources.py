"""seqio data sources for the tasks: rows in memory, and prepared TFDS data.

Both give TFDS's types: text and lists of text as strings, labels int64, other
integers int32, scores float32.
"""

from collections.abc import Sequence
import logging
from typing import Any
import urllib.error
import urllib.request

from etils import epath
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.tasks.seqio import rows as rows_lib
from hypergrid_jax.tasks.task_definition import TaskDefinition

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
    if task.rows is None:
      sources.parse_source(source)
    self.definition = task
    self._source = source
    self._names = split_names(task)
    super().__init__(splits=self._names)

  def __repr__(self) -> str:
    return f'RowsSource({self.definition.name!r}, {self._source!r})'

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: a split is one shard."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the split itself, the only shard."""
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    """Returns the number of rows where the source knows it, else None."""
    return sources.num_examples(
      self._source, self.definition, self._names[split]
    )

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
    rows = list(sources.read_rows(self._source, self.definition, stored))
    dataset = tf.data.Dataset.from_tensor_slices(tensors(rows, self.definition))
    if shuffle:
      dataset = dataset.shuffle(len(rows), seed=seed)
    return _trained_rows(dataset, self.definition, stored)


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
    self.definition = task
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
    return _trained_rows(dataset, self.definition, split)

  def num_input_examples(self, split: str) -> int | None:
    """Returns the number of rows; see `get_dataset` for what is raised."""
    self._require()
    return super().num_input_examples(split)

  def _require(self) -> None:
    data_dir = self.tfds_dataset.data_dir or tfds.core.constants.DATA_DIR
    directory = sources.tfds_directory(self.definition, data_dir)
    if not (directory / 'dataset_info.json').exists():
      name = self.definition.tfds
      _prepare(
        name, data_dir, directory, self._allow_download, server=DOWNLOAD_SERVER
      )


class RegisteredSource(seqio.DataSource):
  """The source of a task that somebody else registered with seqio.

  It says when data have to be downloaded, and gives the rows in the order of
  the source, whose functions need not know seeds.
  """

  def __init__(
    self, task: str, source: seqio.DataSource, allow_download: bool = True
  ):
    """Makes the source; nothing is read yet.

    Args:
      task: name of the task.
      source: its own.
      allow_download: whether missing TFDS data may be downloaded.
    """
    self._task = task
    self._inner = source
    self._allow_download = allow_download
    super().__init__(splits=definitions.definition(task).rows.parts)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: a split is one shard."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the split itself, the only shard."""
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    """Returns what the inner source says."""
    return self._inner.num_input_examples(split)

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = False,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns the split's rows.

    Args:
      split: a name of `splits`.
      shuffle: not done: the loader shuffles tokens.
      seed: not used.
      shard_info: only the single shard that there is.
      **unused: what seqio passes to sources that cache or trim.

    Raises:
      UserError: TFDS data are not prepared, and a download is not allowed, or
        failed.
    """
    del shuffle, seed, unused
    if shard_info and shard_info.num_shards > 1:
      raise ValueError('a registered source is read as a single shard')
    if isinstance(self._inner, seqio.TfdsDataSource):
      dataset, data_dir = self._inner.tfds_dataset.get_split_params(split)
      if rows_lib.prepared(dataset, data_dir) is None:
        data_dir = data_dir or tfds.core.constants.DATA_DIR
        directory = epath.Path(data_dir) / (dataset or '').replace(':', '/')
        _prepare(dataset, data_dir, directory, self._allow_download)
    return self._inner.get_dataset(split=split, shuffle=False)


def _prepare(
  name: str,
  data_dir: Any,
  directory: Any,
  allow_download: bool,
  *,
  server: str | None = None,
) -> None:
  """Downloads and prepares TFDS data after saying so.

  Args:
    name: of the data, with configuration and version.
    data_dir: TFDS data directory.
    directory: where the data are going to lie.
    allow_download: otherwise missing data are an error at once.
    server: from which nearly all files come, where that is known.

  Raises:
    UserError: it is not allowed, or fails.
  """
  if not allow_download:
    raise _not_prepared(name, data_dir, directory, 'downloads are off')
  logger.warning(
    '%s is not prepared in %s: downloading%s (once)',
    name,
    data_dir,
    f' from {server}' if server else '',
  )
  try:
    if server:
      _probe(server)
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


def tensors(rows: list[sources.Row], task: TaskDefinition) -> dict[str, Any]:
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
