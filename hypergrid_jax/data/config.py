"""What to train on, how it is mixed, and how long rows are."""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import Literal

from hypergrid_jax.errors import UserError

# The shortest inputs: CoLA's have 15 tokens on average with T5's vocabulary,
# the sample corpus's 11. With fewer segments their rows stay half empty.
_TOKENS_PER_SEGMENT = 10
# Most examples of GLUE and SuperGLUE have fewer: SST-2's 2 target tokens for 22
# input tokens need an eleventh, CoLA's 2 for 15 somewhat more than an eighth. A
# quarter would leave nine decoder tokens of ten empty, at the cost of about two
# encoder tokens each, to fill CoLA's encoder rows to the end.
_ENCODER_PER_DECODER_TOKEN = 8
_MIXINGS = ('proportional', 'equal', 'registered')


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The data of a run.

  An *example* is cut to `inputs_length` and `targets_length` tokens (the
  end-of-sequence id is kept); a *row* is what the model receives. With packing
  a row holds several examples of one task.

  Attributes:
    mixture: name of a mixture or of a single task, or several such names.
    task_files: what defines tasks of your own, to be named in `mixture`: TOML
      files, Python files, or modules that register tasks with seqio.
    source: 'sample' (bundled), 'tfds', or 'files:DIR'.
    vocabulary: 'sample', 'bytes', or the path of a SentencePiece model.
    inputs_length: tokens of an example's inputs at most, end of sequence
      included.
    targets_length: the same for its targets; T5's SuperGLUE value.
    row_length: tokens of an encoder row when packing.
    row_targets_length: tokens of a decoder row when packing; None is an eighth
      of `row_length`, but at least `targets_length`. Long answers need more,
      which `hypergrid tokenize` shows.
    max_segments: examples in a packed row at most; None is one for every 10
      tokens of `row_length`. The model's segment axis has this size.
    batch_size: rows of a global batch.
    pack: whether to pack; otherwise one example per row of `inputs_length` and
      `targets_length` tokens.
    length_buckets: without packing, lengths of encoder rows, increasing, the
      last at least `inputs_length`. Examples of similar length come in the same
      batch, whose rows have the shortest of these lengths that holds them. None
      gives all rows one length.
    task_prefix: whether the texts of GLUE and SuperGLUE begin with the name of
      their data set ("cola sentence: ..."), as T5's do. HyperFormer's authors
      leave it out where the task is given by its id.
    protocol: which rows are trained on, evaluated on and tested on:
      't5' takes the published splits, 'hyperformer' makes a labelled test set
      of the public rows (`hypergrid_jax.tasks.catalogue.protocols`).
    mixing: 'proportional' draws examples at min(n, rate_cap)^(1/temperature)
      for a training set of n examples (Raffel et al. 2020, section 3.5.2);
      'equal' draws every task alike; 'registered' takes the rates that
      `mixture` is registered with in seqio. None is 'registered' for a mixture
      that has such rates, and 'proportional' for any other.
    rate_cap: the cap of proportional mixing, in examples; None for no cap.
    temperature: the temperature of proportional mixing.
    weights: fixed rates for every trained task, in place of `mixing`; 0 leaves
      a task out of training.
    tasks_per_batch: 'mixed' draws the task of every row; 'one' draws one task
      for a whole batch, at the same rates, as HyperFormer does.
    missing_train: what to do with a task of the mixture whose training set is
      not in the source: 'error', or 'skip' to evaluate it only.
    token_dir: directory of the token store; None puts it into the run's
      directory.

  Raises:
    UserError: a field has a value that cannot be used.
  """

  mixture: str | tuple[str, ...]
  task_files: tuple[str, ...] = ()
  source: str = 'sample'
  vocabulary: str = 'sample'
  inputs_length: int = 512
  targets_length: int = 62
  row_length: int = 512
  row_targets_length: int | None = None
  max_segments: int | None = None
  batch_size: int = 128
  pack: bool = True
  length_buckets: tuple[int, ...] | None = None
  task_prefix: bool = True
  protocol: Literal['t5', 'hyperformer'] = 't5'
  mixing: Literal['proportional', 'equal', 'registered'] | None = None
  rate_cap: int | None = None
  temperature: float = 1.0
  weights: Mapping[str, float] | None = None
  tasks_per_batch: Literal['mixed', 'one'] = 'mixed'
  missing_train: Literal['error', 'skip'] = 'error'
  token_dir: str | None = None

  def __post_init__(self):
    if isinstance(self.mixture, list):
      object.__setattr__(self, 'mixture', tuple(self.mixture))
    _check_mixture(self.mixture)
    if isinstance(self.task_files, list):
      object.__setattr__(self, 'task_files', tuple(self.task_files))
    for name in self.task_files:
      _check_text('task_files', name)
    _check_source(self.source)
    _check_text('vocabulary', self.vocabulary)
    for field in ('inputs_length', 'targets_length'):
      _check_integer(field, getattr(self, field), minimum=2)
    for field in ('row_length', 'batch_size'):
      _check_integer(field, getattr(self, field), minimum=1)
    for field in ('row_targets_length', 'max_segments', 'rate_cap'):
      if getattr(self, field) is not None:
        _check_integer(field, getattr(self, field), minimum=1)
    if self.mixing is not None:
      _check_choice('mixing', self.mixing, _MIXINGS)
    _check_choice('protocol', self.protocol, ('t5', 'hyperformer'))
    _check_choice('tasks_per_batch', self.tasks_per_batch, ('mixed', 'one'))
    _check_choice('missing_train', self.missing_train, ('error', 'skip'))
    for field in ('pack', 'task_prefix'):
      _check_boolean(field, getattr(self, field))
    if not _is_number(self.temperature) or self.temperature <= 0:
      raise UserError(
        f'data.temperature is {self.temperature!r}; expected a number above 0.'
      )
    if self.length_buckets is not None:
      self._check_buckets()
    _check_weights(self.weights)
    if self.token_dir is not None:
      _check_text('token_dir', self.token_dir)
    self._check_rows()

  def _check_rows(self):
    encoder, decoder = self.row_lengths
    for field, row, length in (
      ('row_length', encoder, 'inputs_length'),
      ('row_targets_length', decoder, 'targets_length'),
    ):
      if row < getattr(self, length):
        raise UserError(
          f'data.{field} = {row} is shorter than data.{length} ='
          f' {getattr(self, length)}: the longest example would not fit into a'
          f' row. Raise data.{field} or lower data.{length}.'
        )

  def _check_buckets(self):
    if isinstance(self.length_buckets, list):
      object.__setattr__(self, 'length_buckets', tuple(self.length_buckets))
    buckets = self.length_buckets
    if not isinstance(buckets, tuple) or not buckets:
      raise UserError(
        f'data.length_buckets is {buckets!r}; expected row lengths in tokens,'
        ' such as (64, 128, 256, 512), or None.'
      )
    for length in buckets:
      _check_integer('length_buckets', length, minimum=1)
    if any(a >= b for a, b in itertools.pairwise(buckets)):
      raise UserError(
        f'data.length_buckets is {buckets!r}; expected increasing lengths.'
      )
    if buckets[-1] < self.inputs_length:
      raise UserError(
        f'data.length_buckets ends with {buckets[-1]}, but data.inputs_length ='
        f' {self.inputs_length}: the longest example would not fit into a row.'
        f' Add {self.inputs_length} at the end, or lower data.inputs_length.'
      )
    if self.pack:
      raise UserError(
        f'data.length_buckets is {buckets!r}, but data.pack is True: packed'
        ' rows all have data.row_length tokens. Set data.pack = False, or leave'
        ' the buckets out.'
      )
    if self.tasks_per_batch == 'one':
      raise UserError(
        f"data.tasks_per_batch = 'one', but data.length_buckets = {buckets!r}"
        ' sorts the rows of many batches by their length, whatever their task.'
        ' Leave one of them out.'
      )

  @property
  def lengths(self) -> tuple[int, int]:
    """Tokens that one example's inputs and targets are cut to."""
    return self.inputs_length, self.targets_length

  @property
  def row_lengths(self) -> tuple[int, int]:
    """Tokens of an encoder and of a decoder row, the longest there are."""
    if self.length_buckets is not None:
      return self.length_buckets[-1], self.targets_length
    if not self.pack:
      return self.lengths
    decoder = self.row_targets_length
    if decoder is None:
      decoder = max(
        self.targets_length, self.row_length // _ENCODER_PER_DECODER_TOKEN
      )
    return self.row_length, decoder

  @property
  def segments(self) -> int:
    """Examples in a row at most; the size S of the segment axis."""
    if not self.pack:
      return 1
    if self.max_segments is not None:
      return self.max_segments
    return max(1, self.row_length // _TOKENS_PER_SEGMENT)


def _is_number(value) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _check_text(field: str, value):
  if not isinstance(value, str) or not value:
    raise UserError(f'data.{field} is {value!r}; expected a non-empty string.')


def _check_boolean(field: str, value):
  if not isinstance(value, bool):
    raise UserError(f'data.{field} is {value!r}; expected True or False.')


def _check_integer(field: str, value, *, minimum: int):
  if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
    raise UserError(
      f'data.{field} is {value!r}; expected a whole number of at least'
      f' {minimum}.'
    )


def _check_choice(field: str, value, choices: tuple[str, ...]):
  if value not in choices:
    raise UserError(
      f'data.{field} is {value!r}; expected one of'
      f' {", ".join(map(repr, choices))}.'
    )


def _check_mixture(mixture):
  names = mixture if isinstance(mixture, tuple) else (mixture,)
  if not names or not all(isinstance(n, str) and n for n in names):
    raise UserError(
      f'data.mixture is {mixture!r}; expected the name of a mixture or task, or'
      ' a tuple of such names.'
    )
  repeated = sorted({name for name in names if names.count(name) > 1})
  if repeated:
    raise UserError(f'data.mixture names {", ".join(repeated)} more than once.')


def _check_source(source):
  known = source in ('sample', 'tfds')
  if isinstance(source, str) and source.startswith('files:'):
    known = len(source) > len('files:')
  if not known:
    raise UserError(
      f"data.source is {source!r}; expected 'sample', 'tfds' or 'files:DIR'."
    )


def _check_weights(weights):
  if weights is None:
    return
  if not isinstance(weights, Mapping) or not weights:
    raise UserError(
      f'data.weights is {weights!r}; expected a dict of task name to rate.'
    )
  for name, weight in weights.items():
    if not _is_number(weight) or weight < 0:
      raise UserError(
        f'data.weights[{name!r}] is {weight!r}; expected a number of at least'
        ' 0.'
      )
  if not any(weights.values()):
    raise UserError('data.weights are all 0; nothing would be trained on.')
