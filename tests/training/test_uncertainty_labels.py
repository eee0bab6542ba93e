"""Which labels the candidates of a task are scored over."""

import types

import numpy as np
import pytest

from hypergrid_jax import errors
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.catalogue import benchmarks
from hypergrid_jax.training import uncertainty_labels


class Letters:
  """One id per letter, from 'a' = 3."""

  eos_id = 1

  def encode(self, text):
    return [ord(letter) - ord('a') + 3 for letter in text]


def task(*labels, numbers=False, free=False):
  return types.SimpleNamespace(
    labels=None if free else labels, classes=() if numbers else labels
  )


TASKS = {
  'size': task('small', 'big'),
  'text': task(free=True),
  'score': task('a', 'b', 'c', numbers=True),
  'word': task('ab', 'b', 'abc', 'a'),
}


def found(tasks=TASKS, targets_length=9, **rules):
  return uncertainty_labels.task_labels(
    tasks, Letters(), targets_length=targets_length, **rules
  )


def test_labels_are_tokens_with_their_end():
  labels = found(numbers='mean', free_text='spread')
  assert labels.rules == ('labels', 'spread', 'mean', 'labels')
  assert labels.scored.tolist() == [0, 3]
  assert labels.counts.tolist() == [2, 4]
  assert labels.owners.tolist() == [0, 0, 1, 1, 1, 1]
  assert labels.tokens.tolist() == [
    [21, 15, 3, 14, 14, 1],
    [4, 11, 9, 1, 0, 0],
    [3, 4, 1, 0, 0, 0],
    [4, 1, 0, 0, 0, 0],
    [3, 4, 5, 1, 0, 0],
    [3, 1, 0, 0, 0, 0],
  ]
  assert labels.copied is None


def test_rules_of_numbers_and_of_free_text():
  labels = found(numbers='labels', free_text='zero')
  assert labels.rules == ('labels', 'zero', 'labels', 'labels')
  assert labels.counts.tolist() == [2, 3, 4]
  labels = found(numbers='copy', copied_task='word')
  assert labels.rules == ('labels', 'spread', 'copy', 'labels')
  assert labels.scored[labels.copied] == 3


def test_a_single_label_is_no_choice():
  labels = found({'one': task('a'), **TASKS}, free_text='zero')
  assert labels.rules[0] == 'zero'


def test_labels_are_cut_as_targets_are():
  labels = found({'size': TASKS['size']}, targets_length=3)
  assert labels.tokens.tolist() == [[21, 15, 1], [4, 11, 1]]
  with pytest.raises(
    errors.UserError,
    match=r"the labels 'ab' and 'abc' of word are the same 3 tokens",
  ):
    found(targets_length=3)


def test_no_labels_at_all_are_refused():
  with pytest.raises(errors.UserError, match=r'no.* labels .*\(text, score\)'):
    found({k: TASKS[k] for k in ('text', 'score')}, numbers='mean')


def test_a_task_to_copy_must_have_labels():
  with pytest.raises(
    errors.UserError, match=r"copied_task is 'wrod'.*Did you mean 'word'"
  ):
    found(numbers='copy', copied_task='wrod')
  with pytest.raises(errors.UserError, match="copied_task is 'text'"):
    found(numbers='copy', copied_task='text')


def test_the_tasks_of_the_benchmarks():
  tasks = {
    name: definitions.definition(name)
    for name in ('glue_cola', 'glue_stsb', 'super_glue_record', 'super_glue_cb')
  }
  vocabulary = vocabularies.load_vocabulary('sample')
  labels = uncertainty_labels.task_labels(tasks, vocabulary, targets_length=8)
  assert labels.rules == ('labels', 'labels', 'spread', 'labels')
  assert labels.counts.tolist() == [2, 26, 3]
  texts = [vocabulary.decode(row) for row in labels.tokens.tolist()]
  assert texts[2:28] == list(benchmarks.STSB_SCORES)
  assert texts[28:] == ['entailment', 'contradiction', 'neutral']
  assert (np.count_nonzero(labels.tokens == 1, axis=1) == 1).all()
