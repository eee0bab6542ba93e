"""The batches of a run, and how a step chooses among their rows."""

from collections.abc import Callable, Sequence
import typing

import jax

from hypergrid_jax import types
from hypergrid_jax.data import candidates, sampling
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.model import Model
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.training import uncertainty

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig


def make_loader(
  run: 'RunConfig', corpus: datasets.Corpus
) -> loader_lib.Loader | candidates.CandidateLoader:
  """The batches of the run: its rows, or candidates to choose them from.

  Raises:
    UserError: the rates or the sampler do not fit the tasks.
  """
  loader = _row_loader(run, corpus)
  if run.sampler is None:
    return loader
  sampler_labels(run, loader.tasks, corpus.vocabulary)
  per_task = run.sampler.per_task(run.data.batch_size)
  return candidates.CandidateLoader(loader, per_task)


def make_selector(
  run: 'RunConfig',
  model: Model,
  tasks: Sequence[str],
  vocabulary: vocabularies.Vocabulary,
) -> Callable[[types.Params, types.Batch, jax.Array], jax.Array] | None:
  """How a step chooses among its rows; None where it takes all.

  Args:
    run: the configuration.
    model: what is asked.
    tasks: the names of the trained tasks, in the order of the candidates.
    vocabulary: of the run.

  Raises:
    UserError: the sampler does not fit the tasks.
  """
  if run.sampler is None:
    return None
  return run.sampler.selector(
    model,
    sampler_labels(run, tasks, vocabulary),
    batch_size=run.data.batch_size,
    most_rows=run.data.batch_size // run.train.microbatches,
  )


def sampler_labels(run, tasks, vocabulary) -> uncertainty.TaskLabels:
  """What the run's sampler scores the candidates of its tasks by."""
  return run.sampler.labels(
    {name: definitions.definition(name) for name in tasks},
    vocabulary,
    targets_length=run.data.targets_length,
  )


def _row_loader(run, corpus) -> loader_lib.Loader:
  data, stores = run.data, corpus.train
  sizes = {name: store.num_examples for name, store in stores.items()}
  rates = sampling.mixing_rates(sizes, data, corpus.rates)
  return loader_lib.Loader(
    {name: stores[name] for name in rates},
    task_ids=corpus.task_ids,
    rates=rates,
    batch_size=data.batch_size,
    row_lengths=data.row_lengths,
    max_segments=data.segments,
    seed=run.train.seed,
    packed=data.pack,
    length_buckets=data.length_buckets,
    one_task=data.tasks_per_batch == 'one',
  )
