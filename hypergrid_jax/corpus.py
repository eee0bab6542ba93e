"""The data of one run, opened: vocabulary, task ids, token stores.

Which tasks of the mixture can be trained and evaluated with the chosen source
is decided here, and everything left out is said in `notes`.
"""

from collections.abc import Iterable
import dataclasses
import os
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.data import config as data_config
from hypergrid_jax.data import sources, token_requests, tokens, vocabularies
from hypergrid_jax.tasks import definitions, mixtures


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Open data.

  Attributes:
    vocabulary: turns text into ids and back.
    task_ids: task name -> id, in the mixture's order; also of tasks that are
      only evaluated, so that a model's tasks do not depend on which files
      happen to be there.
    train: token store by task name.
    evaluation: (definition, split, token store) of every evaluated task.
    notes: sentences about what was left out.
  """

  vocabulary: vocabularies.Vocabulary
  task_ids: dict[str, int]
  train: dict[str, Any]
  evaluation: list[tuple[Any, str, Any]]
  notes: tuple[str, ...]

  @property
  def task_names(self) -> tuple[str, ...]:
    """Task names by id."""
    return tuple(self.task_ids)


def open_corpus(
  data: data_config.DataConfig,
  vocabulary: vocabularies.Vocabulary,
  *,
  token_dir: str | os.PathLike[str],
  split: str = 'validation',
  train: bool = True,
  only: Iterable[str] | None = None,
  progress: tokens.Progress | None = None,
) -> Corpus:
  """Opens, and where needed builds, the token stores of a run.

  Args:
    data: of the run.
    vocabulary: `data.vocabulary`, loaded.
    token_dir: where token stores are kept.
    split: 'validation', 'test' or 'train', the kind of split to evaluate.
    train: open the training sets too.
    only: names of the tasks to evaluate; None for all.
    progress: see `tokens.open_stores`.

  Raises:
    UserError: an unknown task or mixture, a missing or empty data set, no task
      with a training set.
  """
  chosen = [definitions.definition(name) for name in task_names(data.mixture)]
  found = {
    task.name: sources.available_splits(data.source, task) for task in chosen
  }
  notes: list[str] = []
  wanted: list[tuple[str, str]] = []
  if train:
    wanted += _training_splits(data, chosen, found, notes)
  evaluated = _evaluated_splits(data, _only(chosen, only), found, split, notes)
  wanted += [(task.name, name) for task, name in evaluated]
  requests = [
    token_requests.TokenRequest(
      task, name, data.source, data.vocabulary, data.lengths
    )
    for task, name in wanted
  ]
  stores = tokens.open_stores(requests, directory=token_dir, progress=progress)
  opened = dict(zip(wanted, stores, strict=True))
  return Corpus(
    vocabulary=vocabulary,
    task_ids=task_ids(data.mixture),
    train={
      task.name: opened[task.name, task.train_split]
      for task in chosen
      if train and (task.name, task.train_split) in opened
    },
    evaluation=[
      (task, name, opened[task.name, name]) for task, name in evaluated
    ],
    notes=tuple(notes),
  )


def task_names(mixture: str | tuple[str, ...]) -> tuple[str, ...]:
  """The tasks of a mixture, or the given names.

  Raises:
    UserError: there is no such mixture or task.
  """
  if isinstance(mixture, str):
    return mixtures.mixture(mixture).tasks
  return mixture


def task_ids(mixture: str | tuple[str, ...]) -> dict[str, int]:
  """Task name -> id, for the tasks that the model tells apart.

  A task that is only evaluated shares the id of the task it belongs to, such
  as MNLI's two validation sets.

  Raises:
    UserError: there is no such mixture or task.
  """
  chosen = [definitions.definition(name) for name in task_names(mixture)]
  owners = dict.fromkeys(task.trained_as for task in chosen)
  return {name: number for number, name in enumerate(owners)}


def _training_splits(data, chosen, found, notes) -> list[tuple[str, str]]:
  wanted = []
  for task in chosen:
    if task.train_split is None:
      continue
    if task.train_split in found[task.name]:
      wanted.append((task.name, task.train_split))
    elif data.missing_train == 'skip':
      notes.append(
        f'{task.name} has no complete training set in {data.source}: it is'
        ' not trained.'
      )
    else:
      # Asking for it gives the error that says where it was looked for.
      wanted.append((task.name, task.train_split))
  if not wanted:
    raise errors.UserError(
      f'No task of the mixture {data.mixture!r} has a training set in'
      f' {data.source}; there is nothing to train on.'
    )
  return wanted


def _evaluated_splits(data, chosen, found, split, notes):
  evaluated = []
  for task in chosen:
    kinds = {
      'validation': task.eval_splits,
      'test': (task.test_split,) if task.test_split else (),
      'train': (task.train_split,) if task.train_split else (),
    }
    for name in kinds[split]:
      if name not in found[task.name] and data.missing_train == 'skip':
        notes.append(
          f'{task.name} has no {name} split in {data.source}: it is not'
          ' evaluated.'
        )
      else:
        evaluated.append((task, name))
  return evaluated


def _only(chosen, names: Iterable[str] | None):
  if names is None:
    return chosen
  by_name = {task.name: task for task in chosen}
  for name in names:
    if name not in by_name:
      raise errors.UserError(
        f'Task {name!r} is not in this run, which has {", ".join(by_name)}.'
        f'{errors.closest(name, by_name)}'
      )
  return [by_name[name] for name in dict.fromkeys(names)]
