"""How steps are timed: in pairs, and once. No time is looked at."""

import pathlib

from hypergrid_jax.comparing import step_times
from hypergrid_jax.comparing.step_times import StepTime


def test_medians_of_pairs():
  # (method, plain): the ratios are 2, 1.5, 1.25 and 3; one pair was disturbed.
  times = [(20.0, 10.0), (15.0, 10.0), (100.0, 80.0), (24.0, 8.0)]
  assert step_times.summarised(
    times, condition=[1.0, 4.0, 2.0, 3.0]
  ) == StepTime(
    milliseconds=22.0,
    plain_milliseconds=10.0,
    relative=1.75,
    condition_milliseconds=2.5,
    selection_milliseconds=None,
    pairs=4,
  )
  chosen = step_times.summarised(times, selection=[5.0, 1.0, 2.0, 9.0])
  assert chosen.selection_milliseconds == 3.5
  assert chosen.condition_milliseconds is None


def test_turns_alternate_on_the_same_batches(monkeypatch):
  calls = []
  clocks = {'plain': 2.0, 'method': 3.0}

  def step(setup):
    def run(number):
      calls.append((setup, number))
      return clocks[setup] * (1000.0 if number < step_times._WARM_UP else 1.0)

    return run

  monkeypatch.setattr(step_times, '_step', step)
  monkeypatch.setattr(step_times, '_condition', lambda setup: None)
  monkeypatch.setattr(step_times, '_selection', lambda setup: float)
  found = step_times.measure('plain', 'method', pairs=3)
  assert found == StepTime(3.0, 2.0, 1.5, None, 3.0, 3)
  numbers = [number for _, number in calls]
  assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
  firsts = [setup for setup, _ in calls[::2]]
  assert firsts == ['method', 'plain', 'method', 'plain', 'method']
  assert {setup for setup, _ in calls} == set(clocks)


def test_a_measurement_holds_where_it_was_made(tmp_path):
  measured = StepTime(1.5, 1.25, 1.2, 0.5, None, 20)
  here = {'devices': '1 x cpu', 'versions': {'jax': '1'}, 'pairs': 20}
  step_times.Store(tmp_path).write('adapters', here, measured)
  again = step_times.Store(tmp_path)
  assert again.read('adapters', dict(here)) == measured
  assert again.read('hypergrid', here) is None
  for name, value in (('devices', '1 x TPU'), ('versions', {'jax': '2'})):
    assert again.read('adapters', {**here, name: value}) is None


def test_what_cannot_be_read_is_measured_again(tmp_path):
  (tmp_path / 'step_times.json').write_text('{"adapters": ')
  assert step_times.Store(tmp_path).read('adapters', {}) is None


def test_methods_are_measured_once(tmp_path, monkeypatch):
  measured = []

  def measure(plain, method, *, pairs):
    measured.append(method)
    return StepTime(
      1.0 * len(method), 1.0, 1.0 * len(method), None, None, pairs
    )

  monkeypatch.setattr(step_times, 'measure', measure)
  monkeypatch.setattr(
    step_times, 'circumstances', lambda plain, method, pairs: {'of': method}
  )

  def all_of(*names):
    setups = {name: lambda name=name: f'{name} set up' for name in names}
    return step_times.measure_all(
      'plain', setups, tmp_path, pairs=2, console=_Silent()
    )

  first = all_of('a', 'bb')
  assert measured == ['a set up', 'bb set up']
  second = all_of('bb', 'ccc', 'a')
  assert measured == ['a set up', 'bb set up', 'ccc set up']
  assert second == {**first, 'ccc': StepTime(10.0, 1.0, 10.0, None, None, 2)}
  assert list(pathlib.Path(tmp_path).iterdir()) == [
    tmp_path / 'step_times.json'
  ]


class _Silent:
  is_terminal = False

  def print(self, *_, **__):
    pass


def test_timed_calls_once_and_passes_on():
  calls = []
  run = step_times.timed(lambda *arguments: calls.append(arguments))
  assert run(3, 'x') >= 0.0
  assert calls == [(3, 'x')]
