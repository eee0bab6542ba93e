"""Turns, spreads and ratios of the benchmarks."""

import pytest


@pytest.fixture
def measuring(script):
  return script('measuring')


def test_all_run_once_without_a_clock_and_then_in_turn(measuring):
  calls = []

  def variant(name, wall):
    def run():
      calls.append(name)
      return measuring.Measured(wall * len(calls), 2 * wall * len(calls))

    return run

  times = measuring.take_turns(
    {'a': variant('a', 1.0), 'b': variant('b', 10.0)}, 3, fewer={'a': 2}
  )
  assert calls == ['a', 'b', 'a', 'b', 'a', 'b', 'b']
  assert times['a'].wall == [3.0, 5.0]
  assert times['b'].wall == [40.0, 60.0, 70.0]
  assert times['b'].processor == [80.0, 120.0, 140.0]


def test_a_spread_has_the_quartiles(measuring):
  assert measuring.spread([5.0, 1.0, 2.0, 9.0, 4.0]) == {
    'median': 4.0,
    'quartile_1': 2.0,
    'quartile_3': 5.0,
    'least': 1.0,
    'count': 5,
  }
  assert measuring.spread([1234.56])['median'] == 1235.0


def test_a_ratio_is_of_the_turns_that_both_took(measuring):
  # In its third turn the base was alone, and the machine slow.
  base = measuring.Times([10.0, 20.0, 900.0], [1.0, 3.0, 7.0])
  ours = measuring.Times([30.0, 30.0], [6.0, 6.0])
  found = measuring.ratio(ours, base)
  assert found['of_medians'] == 2.0
  assert found['by_turn']['median'] == 2.25  # of 3 and 1.5
  assert found['by_turn']['count'] == 2
  assert found['of_least'] == 3.0
  assert found['of_processor_medians'] == 3.0


def test_the_base_has_no_ratio_to_itself(measuring):
  times = {
    'plain': measuring.Times([4.0], [8.0]),
    'other': measuring.Times([5.0], [4.0]),
  }
  found = measuring.compared(times, 'plain')
  assert 'over_plain' not in found['plain']
  assert found['plain']['milliseconds']['median'] == 4.0
  assert found['other']['over_plain']['of_medians'] == 1.25
  assert found['other']['over_plain']['of_processor_medians'] == 0.5
