"""Saves come by steps and by the first process's minutes, in all alike."""

import collections
import math

import pytest

from hypergrid_jax.checkpoints.writer import CheckpointTimes


class Clock:
  """Seconds of one process; every step takes as long as it is told."""

  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


def saves(num_steps, seconds, *, start=0, others=(), **options):
  """Runs process 0 and others side by side.

  Args:
    num_steps: of the run.
    seconds: (step) -> how long it takes process 0.
    others: the same, of other processes.

  Returns:
    The steps after which process 0 saves, its time at each, and the questions
    that were asked between two saves.
  """
  durations = [seconds, *others]
  clocks = [Clock() for _ in durations]
  told, asked = {}, collections.Counter()

  def agree(process):
    def answer(value):
      if process == 0:
        told['value'] = value
        asked[len(times)] += 1
      return told['value']

    return answer

  steps, times = [], []
  processes = [
    CheckpointTimes(start, agree=agree(number), clock=clock, **options)
    for number, clock in enumerate(clocks)
  ]
  for step in range(start + 1, num_steps + 1):
    for clock, duration in zip(clocks, durations, strict=True):
      clock.now += duration(step)
    told.clear()
    first, *rest = [process.due(step) for process in processes]
    assert rest == [first] * len(rest)
    if first:
      steps.append(step)
      times.append(clocks[0].now - 1000.0)
  return steps, times, asked


def test_by_steps_alone_nobody_is_asked():
  steps, _, asked = saves(30, lambda _: 1.0, start=4, steps=7)
  assert steps == [7, 14, 21, 28]
  assert not asked


def test_by_minutes_the_save_comes_in_the_step_after_the_time():
  # Steps of 0.7 s; a minute is over after 86 of them, 60.2 s.
  steps, times, _ = saves(400, lambda _: 0.7, steps=1000, minutes=1.0)
  assert steps == [86, 172, 258, 344]
  assert times == pytest.approx([60.2, 120.4, 180.6, 240.8])


def test_a_save_by_steps_starts_the_minutes_anew():
  steps, _, _ = saves(250, lambda _: 0.7, steps=100, minutes=1.0)
  assert steps == [86, 100, 186, 200]


def test_others_follow_the_first_ones_clock():
  steps, _, _ = saves(
    400,
    lambda _: 0.7,
    others=(lambda _: 70.0, lambda _: 0.0),
    steps=1000,
    minutes=1.0,
  )
  assert steps == [86, 172, 258, 344]


@pytest.mark.parametrize('step_seconds', [0.02, 0.3, 7.0])
def test_few_questions_are_asked(step_seconds):
  period = math.ceil(1200 / step_seconds)
  _, times, asked = saves(
    3 * period + 5, lambda _: step_seconds, steps=10**9, minutes=20.0
  )
  expected = [number * period * step_seconds for number in (1, 2, 3)]
  assert times == pytest.approx(expected, abs=3 * step_seconds)
  assert max(asked.values()) < 50


def test_a_run_that_becomes_slower_is_not_late():
  """Ten fast steps, then one a minute: still within a step of the time."""
  _, times, _ = saves(
    200,
    lambda step: 0.01 if step <= 10 else 60.0,
    steps=1000,
    minutes=30.0,
  )
  assert times[0] == pytest.approx(1800, abs=61)


def test_a_step_longer_than_the_period_is_saved_at_once():
  steps, _, _ = saves(5, lambda _: 100.0, start=2, steps=1000, minutes=1.0)
  assert steps == [3, 4, 5]
