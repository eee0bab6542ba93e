"""Processes get one answer, or one failure; here they are threads."""

import concurrent.futures
import itertools
import threading

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import agreement

COUNT = 3


class Messages:
  """Stands for `processes`: what threads tell each other."""

  def __init__(self):
    self._told = {}
    self._changed = threading.Condition()
    self._mine = threading.local()

  def be(self, index):
    self._mine.index = index
    self._mine.numbers = itertools.count()

  def __next__(self):
    return next(self._mine.numbers)

  def count(self):
    return COUNT

  def index(self):
    return self._mine.index

  def publish(self, topic, text):
    with self._changed:
      self._told[topic] = text
      self._changed.notify_all()

  def wait_for(self, topic, *, timeout_seconds):
    with self._changed:
      self._changed.wait_for(lambda: topic in self._told, timeout_seconds)
      return self._told.get(topic)

  def delete(self, topic):
    with self._changed:
      for name in [n for n in self._told if n.startswith(f'{topic}/')]:
        del self._told[name]

  @property
  def topics(self):
    return sorted(self._told)


@pytest.fixture
def messages(monkeypatch):
  fake = Messages()
  monkeypatch.setattr(agreement, 'processes', fake)
  monkeypatch.setattr(agreement, '_numbers', fake)
  return fake


def run(messages, program, indices=range(COUNT)):
  """Returns what each process returns, or the error it raises."""

  def one(index):
    messages.be(index)
    try:
      return program(index)
    except Exception as error:
      return type(error), str(error)

  with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
    return list(pool.map(one, indices))


def test_one_process_asks_nobody():
  assert agreement.of_first(lambda: (3, 'as it is')) == (3, 'as it is')
  assert agreement.of_all(lambda: 5) == [5]


def test_all_get_what_the_first_says(messages):
  called = []

  def program(index):
    def make():
      called.append(index)
      return {'seen': [index]}

    return agreement.of_first(make)

  assert run(messages, program) == [{'seen': [0]}] * COUNT
  assert called == [0]


def test_all_get_everybodys_answers_in_order(messages):
  found = run(messages, lambda index: agreement.of_all(lambda: 10 * index))
  assert found == [[0, 10, 20]] * COUNT
  assert messages.topics == ['agreement/0/answer']  # the rest is forgotten


def test_exchanges_find_each_other_by_order_not_by_time(messages):
  def program(index):
    first, second, third = (agreement.Exchange() for _ in range(3))
    late = second.of_all(lambda: f'second {index}')
    # As when a thread of its own uses it.
    early = first.of_all(lambda: f'first {index}')
    return early, late, third.of_first(lambda: 'third')

  for early, late, third in run(messages, program):
    assert early == ['first 0', 'first 1', 'first 2']
    assert late == ['second 0', 'second 1', 'second 2']
    assert third == 'third'


@pytest.mark.parametrize('who', [0, 2])
@pytest.mark.parametrize(
  ('raised', 'elsewhere', 'text'),
  [
    (UserError, UserError, 'no room'),
    (
      PermissionError,
      agreement.OtherProcessError,
      'PermissionError: no room',
    ),
  ],
)
def test_a_failure_of_one_is_a_failure_of_all(
  messages, who, raised, elsewhere, text
):
  def program(index):
    def make():
      if index == who:
        raise raised('no room')

    return agreement.of_all(make)

  found = run(messages, program)
  assert found.pop(who) == (raised, 'no room')
  assert found == [(elsewhere, f'Process {who}: {text}')] * (COUNT - 1)


def test_a_refusal_of_the_first_is_everybodys_word_for_word(messages):
  def refuse():
    raise UserError('Choose another directory.')

  found = run(messages, lambda _: agreement.of_first(refuse))
  assert found == [(UserError, 'Choose another directory.')] * COUNT


def test_after_a_failure_the_next_question_is_answered(messages):
  def program(index):
    with pytest.raises((ValueError, agreement.OtherProcessError)):
      agreement.of_all(lambda: int('one' if index == 1 else '1'))
    return agreement.of_first(lambda: index)

  assert run(messages, program) == [0] * COUNT


@pytest.mark.parametrize('away', [0, 1])
def test_who_stays_away_is_named(messages, monkeypatch, away):
  monkeypatch.setattr(agreement, 'TIMEOUT_SECONDS', 0.2)
  there = [index for index in range(COUNT) if index != away]
  found = run(messages, lambda _: agreement.of_all(lambda: 1), there)
  for kind, text in found:
    assert kind is agreement.UnansweredError
    assert text.startswith(f'Process {away} has not answered for 0.2 s.')
