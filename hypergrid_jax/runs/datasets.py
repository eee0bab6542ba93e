"""The data of one run, opened: vocabulary, task ids, token stores.

Which tasks of the mixture can be trained and evaluated with the chosen source
is decided here, and everything left out is said in `notes`.
"""

from collections.abc import Iterable
import dataclasses
import itertools
import os
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.data import config as data_config
from hypergrid_jax.data import sampling, token_requests, tokens
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.catalogue import mixtures, protocols
from hypergrid_jax.tasks.rows import sources

# A task, and the part of one of its splits.
_Wanted = tuple[definitions.TaskDefinition, protocols.Part]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Open data.

  Attributes:
    vocabulary: turns text into ids and back.
    task_ids: task name -> id, in the mixture's order; also of tasks that are
      only evaluated, so that a model's tasks do not depend on which files
      happen to be there.
    train: token store by task name.
    evaluation: (definition, split, token store) of every evaluated task; the
      split with its part where a protocol divides it, as 'validation[:half]'.
    notes: sentences about what was left out.
    rates: the rates that the mixture is registered with in seqio, from the
      training examples per task; None when it has none.
  """

  vocabulary: vocabularies.Vocabulary
  task_ids: dict[str, int]
  train: dict[str, Any]
  evaluation: list[tuple[Any, str, Any]]
  notes: tuple[str, ...]
  rates: sampling.Rates | None = None

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
      to train on, or to evaluate beside training.
  """
  chosen = [definitions.definition(name) for name in task_names(data.mixture)]
  found = {
    task.name: sources.available_splits(data.source, task) for task in chosen
  }
  notes: list[str] = []
  trained: list[_Wanted] = []
  if train:
    trained = _training_splits(data, chosen, found, notes)
  evaluated = _evaluated_splits(data, _only(chosen, only), found, split, notes)
  if train and not evaluated:
    raise errors.UserError(
      f'No task of the mixture {data.mixture!r} has a {split} split; there is'
      " nothing to evaluate. Give one a file, or set evaluate.split = 'train'."
    )
  rates = _rates(data, notes)
  requests = [_request(data, *wanted) for wanted in (*trained, *evaluated)]
  stores = tokens.open_stores(requests, directory=token_dir, progress=progress)
  return Corpus(
    vocabulary=vocabulary,
    task_ids=task_ids(data.mixture),
    train={
      task.name: store
      for (task, _), store in zip(trained, stores[: len(trained)], strict=True)
    },
    evaluation=[
      (task, ''.join(part), store)
      for (task, part), store in zip(
        evaluated, stores[len(trained) :], strict=True
      )
    ],
    notes=tuple(notes),
    rates=rates,
  )


def _request(data, task, part) -> token_requests.TokenRequest:
  split, rows = part
  return token_requests.TokenRequest(
    task.name,
    split,
    data.source,
    data.vocabulary,
    data.lengths,
    task_file=task.task_file,
    part=rows,
    task_prefix=data.task_prefix,
  )


def task_names(mixture: str | tuple[str, ...]) -> tuple[str, ...]:
  """The tasks of a mixture, or of several mixtures and tasks, each once.

  Raises:
    UserError: there is no such mixture or task.
  """
  if isinstance(mixture, str):
    return mixtures.mixture(mixture).tasks
  found = ((name, mixtures.known(name)) for name in mixture)
  named = (known.tasks if known else (name,) for name, known in found)
  return tuple(dict.fromkeys(itertools.chain(*named)))


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


def _rates(data, notes) -> sampling.Rates | None:
  names = data.mixture if isinstance(data.mixture, tuple) else (data.mixture,)
  known = mixtures.known(names[0]) if len(names) == 1 else None
  if known is None or known.rates is None:
    return None
  if data.weights is None and data.mixing in (None, 'registered'):
    notes.append(f'Tasks are mixed at the registered rates of {known.name}.')
  else:
    chosen = (
      'data.weights' if data.weights else f'data.mixing = {data.mixing!r}'
    )
    notes.append(f'{chosen} replaces the registered rates of {known.name}.')
  return known.rates


def _training_splits(data, chosen, found, notes) -> list[_Wanted]:
  wanted = []
  for task in chosen:
    for part in protocols.PROTOCOLS[data.protocol].parts(task, 'train'):
      # Asking for what is missing gives the error that says where it was
      # looked for.
      if part[0] in found[task.name] or data.missing_train == 'error':
        wanted.append((task, part))
      else:
        notes.append(
          f'{task.name} has no complete training set in {data.source}: it is'
          ' not trained.'
        )
  if not wanted:
    raise errors.UserError(
      f'No task of the mixture {data.mixture!r} has a training set in'
      f' {data.source}; there is nothing to train on.'
    )
  return wanted


def _evaluated_splits(data, chosen, found, kind, notes) -> list[_Wanted]:
  protocol = protocols.PROTOCOLS[data.protocol]
  wanted, kept = [], []
  for task in chosen:
    if protocol.keeps(task):
      kept.append(task.name)
    for part in protocol.parts(task, kind):
      if part[0] in found[task.name] or data.missing_train == 'error':
        wanted.append((task, part))
      else:
        notes.append(
          f'{task.name} has no {part[0]} split in {data.source}: it is not'
          ' evaluated.'
        )
  if kept:
    notes.append(
      f'The protocol {protocol.name!r} says nothing about {", ".join(kept)};'
      ' they keep their published splits.'
    )
  return wanted


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
