"""What is known of a task before its text is turned into tokens."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any, Protocol

# Kinds of field, with their type in a row and in TFDS:
#   text     str                        string
#   texts    list of str                strings, any number
#   integer  int                        int32
#   label    int, index into `classes`  int64
#   score    float in [0, 5]            float32
# A name with a slash is nested: 'idx/paragraph' is row['idx']['paragraph'].
Fields = Mapping[str, str]

# What stands for a target that a row does not have: T5's formats write the
# label -1 of GLUE's and SuperGLUE's test rows so, the second for scores.
NO_TARGETS = ('<unk>', '-1.0')


class OwnRows(Protocol):
  """Rows that a task brings along, whatever the run's source is."""

  def splits(self) -> Mapping[str, str]:
    """Returns the splits that are there, and where each lies."""

  def fingerprint(self, split: str) -> str:
    """Returns a text that changes when an example of the split may have."""

  def count(self, split: str) -> int | None:
    """Returns the number of rows where that is cheap to know."""

  def estimate(self, split: str) -> int:
    """Returns about how many rows there are; 0 where nobody can say."""

  def read(self, split: str) -> Iterator[dict[str, Any]]:
    """Yields the rows, checked, with exactly the definition's fields."""


@dataclasses.dataclass(frozen=True)
class TaskDefinition:
  """One task: where its rows come from and what they look like.

  Attributes:
    name: the task's own name, such as 'glue_sst2'.
    benchmark: 'glue' or 'super_glue'; of a user's own task 'toml' or 'seqio',
      the kind of file that defines it.
    config: the task's directory below the benchmark's in a `files:` source;
      empty, as the next one, for a task that brings its own rows.
    tfds: TFDS name with configuration and version.
    train_split: split to train on; None for tasks that are only evaluated.
    eval_splits: labelled splits to evaluate on.
    test_split: unlabelled split whose predictions are submitted, or None.
    trained_as: the task whose training, and task id, this one shares; its own
      name for every task that has a training split.
    group: entry of the averages that the task's metrics belong to, its own
      name for a user's own task; None for tasks outside every average.
    labels: the closed set of target texts, in the order of the class ids (for
      STS-B, ascending scores); None where targets are free text.
    train_examples: published number of training examples (for ReCoRD of
      question-answer pairs, for WSC of positive rows): T5's mixing weights; 0
      where nothing is published.
    fields: the fields of a row with their kinds, in TFDS's order; empty where
      only the task's own seqio source knows them.
    classes: names of the values 0, 1, ... of the row's label field; empty where
      the row has no such field.
    train_label: the only label whose rows are trained on; None for all rows.
    check: finds what is wrong with a row whose fields each have the right type;
      returns the problem in words, or None.
    metrics: names of the metrics of a task from a TOML file.
    rows: where the rows come from; None for the run's source.
    task_file: the file or module that defines the task; None for the tasks of
      this package, and for those that are only known to this process.
  """

  name: str
  benchmark: str
  config: str
  tfds: str
  train_split: str | None
  eval_splits: tuple[str, ...]
  test_split: str | None
  trained_as: str
  group: str | None
  labels: tuple[str, ...] | None
  train_examples: int
  fields: Fields
  classes: tuple[str, ...] = ()
  train_label: int | None = None
  check: Callable[[Mapping[str, Any]], str | None] | None = None
  metrics: tuple[str, ...] = ()
  rows: OwnRows | None = None
  task_file: str | None = None

  @property
  def splits(self) -> tuple[str, ...]:
    """Every split of the task, in the order train, evaluation, test."""
    splits = (self.train_split, *self.eval_splits, self.test_split)
    return tuple(split for split in splits if split is not None)


def own_task(
  name: str,
  benchmark: str,
  *,
  rows: OwnRows,
  task_file: str | None,
  splits: tuple[str | None, str | None, str | None],
  **values: Any,
) -> TaskDefinition:
  """Makes the definition of a user's own task.

  Args:
    name: of the task, and of its group in averages.
    benchmark: 'toml' or 'seqio'.
    rows: where its rows come from.
    task_file: what defines it; None when only this process knows it.
    splits: to train on, to evaluate on and to test on; None for none.
    **values: other fields of `TaskDefinition`.
  """
  train, evaluated, test = splits
  defaults = {'labels': None, 'fields': {}}
  return TaskDefinition(
    name=name,
    benchmark=benchmark,
    config='',
    tfds='',
    train_split=train,
    eval_splits=() if evaluated is None else (evaluated,),
    test_split=test,
    trained_as=name,
    group=name,
    train_examples=0,
    rows=rows,
    task_file=task_file,
    **{**defaults, **values},
  )
