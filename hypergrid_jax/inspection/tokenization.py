"""`hypergrid tokenize`: the token stores of a run, built ahead of training.

No model is built. What is printed is what training will see: every split in
tokens, the mixture, and how full its rows are.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
import typing
from typing import Any

from rich.console import Console
from rich.table import Table

from hypergrid_jax import console as console_lib
from hypergrid_jax.data import config as data_config
from hypergrid_jax.inspection import (
  split_statistics,
  split_tables,
  task_warnings,
)
from hypergrid_jax.runs import batches, datasets, setup, summary
from hypergrid_jax.tasks import definitions, task_files, vocabularies
from hypergrid_jax.tasks.catalogue import protocols

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# 'task/split' -> its token store.
_Stores = Mapping[str, Any]
_SIDES = split_statistics.SIDES


def tokenize(
  run: 'RunConfig',
  model_dir: str | os.PathLike[str],
  *,
  test: bool = False,
  console: Console,
) -> None:
  """Builds the token stores that are missing, and says what is in all of them.

  Args:
    run: the configuration.
    model_dir: the run's directory, which has the stores unless the
      configuration names another.
    test: the test splits too.
    console: for what a person sees.

  Raises:
    UserError: as training would.
  """
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  directory = setup.token_dir(run, model_dir)
  task_files.load(run.data.task_files, cache=directory)
  built: set[str] = set()
  kinds = dict.fromkeys((run.evaluate.split, *(('test',) if test else ())))
  with console_lib.on_demand(console, 'tokenising') as shown:

    def report(label, done, total):
      built.add(label)
      shown(label, done, total)

    opened = [
      datasets.open_corpus(
        run.data,
        vocabulary,
        token_dir=directory,
        split=kind,
        train=number == 0,
        progress=report,
      )
      for number, kind in enumerate(kinds)
    ]
  stores = {
    label: store
    for corpus in opened
    for label, store in _stores(run.data, corpus)
  }
  console.print(_stores_table(stores, built))
  _print_mixture(run, opened[0], console)
  for note in dict.fromkeys(note for each in opened for note in each.notes):
    console_lib.say(console, f'Note: {note}')
  for warning in _warnings(run.data, stores):
    console_lib.say(console, f'Warning: {warning}', style='yellow')
  made = f'{len(built)} of them were built' if built else 'nothing was built'
  console_lib.say(
    console, f'{len(stores)} token stores are ready in {directory}; {made}.'
  )


def _stores(
  data: data_config.DataConfig, corpus: datasets.Corpus
) -> Iterator[tuple[str, Any]]:
  """Yields every token store with its 'task/split'."""
  protocol = protocols.PROTOCOLS[data.protocol]
  for name, store in corpus.train.items():
    (part,) = protocol.parts(definitions.definition(name), 'train')
    yield f'{name}/{"".join(part)}', store
  for task, split, store in corpus.evaluation:
    yield f'{task.name}/{split}', store


def _stores_table(stores: _Stores, built: set[str]) -> Table:
  """What each token store holds; of 'cut' and 'unknown' the worse side."""
  table = console_lib.table(
    ('task/split',),
    (
      'examples',
      'tokens',
      'inputs',
      'max',
      'targets',
      'max',
      'cut',
      'unknown',
      'store',
    ),
    title='Token stores',
    caption='inputs and targets: tokens of an example on average, and at most',
  )
  for label, store in stores.items():
    sides = {side: split_statistics.tokens_of(store, side) for side in _SIDES}
    table.add_row(
      label,
      f'{store.num_examples:,}',
      f'{sum(facts["tokens"] for facts in sides.values()):,}',
      *(
        text
        for facts in sides.values()
        for text in (f'{facts["mean"]:.1f}', f'{facts["longest"]:,}')
      ),
      split_tables.percent(max(_shares(store, 'cut').values())),
      split_tables.percent(max(_shares(store, 'unknown').values())),
      'built' if label in built else 'ready',
    )
  return table


def _shares(store: Any, what: str) -> dict[str, float]:
  """Share of 'cut' examples or 'unknown' tokens, by side.

  Targets that are not there, as in public test sets, count for nothing.
  """
  counts = store.counts
  missing = split_tables.missing_targets(
    definitions.definition(store.task), store.split
  )
  labelled = split_statistics.text_of(store, 0, 'targets') not in missing
  sides = _SIDES if labelled else ('inputs',)
  if what == 'cut':
    return {side: counts[f'cut_{side}'] / store.num_examples for side in sides}
  return {
    side: counts[f'unknown_{side}_tokens'] / counts[f'{side}_tokens']
    for side in sides
  }


def _print_mixture(
  run: 'RunConfig', corpus: datasets.Corpus, console: Console
) -> None:
  """Prints the mixture of the run, and how full rows are in either form."""
  facts = {
    pack: batches.make_loader(
      dataclasses.replace(run, data=_packed(run.data, pack)), corpus
    ).summary(run.train.num_steps)
    for pack in (True, False)
  }
  summary.show_mixture(facts[run.data.pack], console=console)
  table = console_lib.table(
    ('rows',), ('encoder', 'decoder'), title='Row positions that carry tokens'
  )
  for pack, found in facts.items():
    used = ', as in this run' if pack == run.data.pack else ''
    table.add_row(
      f'{"packed" if pack else "one example each"}{used}',
      *_fill(_packed(run.data, pack), found),
    )
  console.print(table)


def _fill(
  data: data_config.DataConfig, facts: Mapping[str, Any]
) -> Iterator[str]:
  """Yields how full encoder and decoder rows are, and of which length."""
  encoder, decoder = map('{:,}'.format, data.row_lengths)
  if data.length_buckets is not None:
    encoder = f'{data.length_buckets[0]:,} to {encoder}'
  for side, length in (('encoder', encoder), ('decoder', decoder)):
    yield f'{1 - facts[f"{side}_padding_fraction"]:.1%} of {length}'


def _packed(data: data_config.DataConfig, pack: bool) -> data_config.DataConfig:
  """The same data with or without packing."""
  if pack == data.pack:
    return data
  return dataclasses.replace(
    data,
    pack=pack,
    row_length=max(data.row_length, data.inputs_length),
    length_buckets=None,
  )


def _warnings(data: data_config.DataConfig, stores: _Stores) -> Iterator[str]:
  for label, store in stores.items():
    cut, unknown = _shares(store, 'cut'), _shares(store, 'unknown')
    for side in cut:
      yield from task_warnings.share_warnings(
        f'{label} {side}',
        cut=cut[side],
        unknown=unknown[side],
        limit=getattr(data, f'{side}_length'),
        flag=f'data.{side}_length',
      )
