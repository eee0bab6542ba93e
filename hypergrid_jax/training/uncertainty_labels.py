"""The texts that each task may write, as tokens, to be uncertain about.

A classifier's uncertainty is the entropy over its classes. A text-to-text
model's classes are the label strings of the task, which its definition lists;
what becomes of tasks without such a list is a rule of the run.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal, Protocol

import numpy as np

from hypergrid_jax.errors import UserError, closest

# 'labels': the entropy over the task's label strings. 'copy': the scores of
# another task's candidates. 'spread': scores as those of the tasks with labels
# are spread. 'mean': their mean score.
# 'zero': always certain.
Rule = Literal['labels', 'copy', 'spread', 'mean', 'zero']


class Definition(Protocol):
  """The part of a task's definition that is used here.

  Attributes:
    labels: the closed set of targets; None where they are free text.
    classes: names of the label field's values; empty for numbers.
  """

  labels: tuple[str, ...] | None
  classes: tuple[str, ...]


class Encoder(Protocol):
  """The part of a vocabulary that is used here."""

  eos_id: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without end of sequence."""


@dataclasses.dataclass(frozen=True)
class TaskLabels:
  """How the candidates of every task are scored, and over which labels.

  Attributes:
    rules: of every task, in the loader's order.
    scored: [U] int, tasks with the rule 'labels', ascending.
    counts: [U] int, how many labels each of them has, at least 2.
    owners: [K] int, for every label of all these tasks an index into `scored`,
      ascending; K is the sum of `counts`.
    tokens: [K, Ll] int32, the labels with end of sequence, padded with 0.
    copied: index into `scored` of the task whose scores the rule 'copy' takes;
      None where no task has that rule.
  """

  rules: tuple[Rule, ...]
  scored: np.ndarray
  counts: np.ndarray
  owners: np.ndarray
  tokens: np.ndarray
  copied: int | None


def task_labels(
  tasks: Mapping[str, Definition],
  vocabulary: Encoder,
  *,
  targets_length: int,
  numbers: Rule = 'labels',
  copied_task: str = 'glue_mrpc',
  free_text: Rule = 'spread',
) -> TaskLabels:
  """Finds the labels of the tasks of a run.

  Args:
    tasks: definitions by name, in the loader's order.
    vocabulary: of the run.
    targets_length: tokens that targets are cut to, end of sequence included;
      labels are cut alike.
    numbers: the rule of tasks whose labels are numbers, such as STS-B.
    copied_task: which task's scores the rule 'copy' takes.
    free_text: the rule of tasks without labels.

  Raises:
    UserError: no task has labels, two labels of a task are the same tokens, or
      the copied task has no labels or is not trained.
  """
  rules = tuple(
    _rule(task, numbers=numbers, free_text=free_text) for task in tasks.values()
  )
  scored = [n for n, rule in enumerate(rules) if rule == 'labels']
  if not scored:
    raise UserError(
      'UncertaintySampling: none of the trained tasks has labels to be'
      f' uncertain about ({", ".join(tasks)}). Add a classification task to'
      ' data.mixture, or leave run.sampler out.'
    )
  names = list(tasks)
  ids = [
    _label_ids(names[n], tasks[names[n]].labels, vocabulary, targets_length)
    for n in scored
  ]
  flat = [label for labels in ids for label in labels]
  tokens = np.zeros((len(flat), max(map(len, flat))), np.int32)
  for row, label in zip(tokens, flat, strict=True):
    row[: len(label)] = label
  counts = np.array([len(labels) for labels in ids])
  copied = None
  if 'copy' in rules:
    copied = _copied([names[n] for n in scored], copied_task)
  return TaskLabels(
    rules=rules,
    scored=np.array(scored),
    counts=counts,
    owners=np.repeat(np.arange(len(counts)), counts),
    tokens=tokens,
    copied=copied,
  )


def _rule(task: Definition, *, numbers: Rule, free_text: Rule) -> Rule:
  if task.labels is None or len(task.labels) < 2:
    return free_text
  return 'labels' if task.classes else numbers


def _label_ids(name, labels, vocabulary, targets_length) -> list[list[int]]:
  """Token ids of every label, as the targets of its examples are cut."""
  ids = [
    [*vocabulary.encode(label)[: targets_length - 1], vocabulary.eos_id]
    for label in labels
  ]
  seen: dict[tuple[int, ...], str] = {}
  for label, tokens in zip(labels, ids, strict=True):
    other = seen.setdefault(tuple(tokens), label)
    if other != label:
      raise UserError(
        f'UncertaintySampling: the labels {other!r} and {label!r} of {name} are'
        f' the same {len(tokens)} tokens. Raise data.targets_length ='
        f' {targets_length}, or choose a vocabulary that tells them apart.'
      )
  return ids


def _copied(scored: Sequence[str], name: str) -> int:
  if name not in scored:
    raise UserError(
      f'UncertaintySampling.copied_task is {name!r}, which is no trained task'
      f' with labels.{closest(name, scored)} There are {", ".join(scored)}.'
      " UncertaintySampling.numbers = 'labels' copies from none."
    )
  return scored.index(name)
