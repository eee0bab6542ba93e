"""Texts without the name of their data set: everything else stays."""

import pytest

from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.tasks.seqio import given_rows, registry
from tests.tasks import own_files
from tests.tasks.reference import examples

# What T5 writes first, where that is not the name of the configuration.
WORDS = {'wsc': 'wsc:', 'axb': 'rte', 'axg': 'rte', 'ax': 'mnli'}
ALL = list(definitions.DEFINITIONS.values())


def texts(task, split, source, **changes):
  made = registry.seqio_task(
    task.name, source=source, vocabulary='bytes', **changes
  )
  return [row['inputs_pretokenized'].decode() for row in examples(made, split)]


@pytest.mark.parametrize('task', ALL, ids=lambda task: task.name)
def test_the_first_word_alone_is_left_out(task, files_source):
  split = task.splits[0]
  word = WORDS.get(task.config, task.config)
  named = texts(task, split, files_source)
  bare = texts(task, split, files_source, task_prefix=False)
  assert named
  assert named == [f'{word} {text}' for text in bare]


def test_rows_that_are_handed_in_follow_the_run(files_source):
  task = definitions.definition('super_glue_copa')
  rows = list(sources.read_rows(files_source, task, 'test'))
  found = given_rows.inputs(
    task.name, rows, vocabulary='bytes', lengths=(90, 12), task_prefix=False
  )
  assert [text for text, _ in found] == texts(
    task, 'test', files_source, task_prefix=False
  )


def test_a_text_of_ones_own_stays(tmp_path):
  task_files.load([own_files.write_reviews(tmp_path)])
  task = definitions.definition('reviews')
  split = task.splits[0]
  assert texts(task, split, 'sample', task_prefix=False) == texts(
    task, split, 'sample'
  )


def test_it_is_on_or_off():
  with pytest.raises(UserError, match='data.task_prefix is 0; expected True'):
    DataConfig('glue', task_prefix=0)
