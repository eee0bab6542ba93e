"""Plain lines where there is no terminal: few, and with the time left."""

import io

from rich.console import Console

from hypergrid_jax import console as console_lib


class Clock:
  """Time that passes when it is told to."""

  def __init__(self):
    self.now = 100.0

  def monotonic(self):
    return self.now


def test_texts_of_users_are_never_markup():
  console = Console(file=io.StringIO(), width=30)
  console_lib.say(console, 'in [red]runs[/red]: ' + 'a ' * 20 + 'end')
  table = console_lib.table(('[b]text',), ('[b]n',), title='[b]', caption='[b]')
  table.add_row('first[half:] [bold]x', '3')
  console.print(table)
  lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
  assert lines[0] == 'in [red]runs[/red]: ' + 'a ' * 20 + 'end'
  assert lines[1] == '[b]'
  assert lines[-1] == '[b]'
  text = ' '.join(' '.join(lines).split())
  assert '[b]text [b]n' in text
  assert 'first[half:] [bold]x 3' in text


def test_a_narrow_table_folds_texts_and_keeps_numbers_whole():
  console = Console(file=io.StringIO(), width=24)
  table = console_lib.table(('task',), ('examples', 'rate'))
  table.add_row('a_name_of_a_task', '1,234,567', '0.123')
  console.print(table)
  assert '1,234,567  0.123' in console.file.getvalue()


def test_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(console_lib, 'time', clock)
  console = Console(file=io.StringIO(), width=100)
  with console_lib.bar(console, 'training', 50, done=20) as bar:
    for done in range(21, 51):
      clock.now += 4.0  # seconds per step
      bar.update(done, f'loss {done / 10:.1f}')
  lines = console.file.getvalue().splitlines()
  # 3 steps are the first 12 seconds; 27 steps of 4 seconds are left.
  assert lines[0] == 'training: 23/50, 1:48 left loss 2.3'
  assert len(lines) == 10
  assert lines[-1] == 'training: 50/50 loss 5.0'


def test_hours_are_hours(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(console_lib, 'time', clock)
  console = Console(file=io.StringIO(), width=100)
  with console_lib.bar(console, 'training', 1001) as bar:
    clock.now += 11.0
    bar.update(1)
  assert console.file.getvalue() == 'training: 1/1001, 3:03:20 left\n'


def test_a_bar_appears_when_there_is_something_to_show(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(console_lib, 'time', clock)
  console = Console(file=io.StringIO(), width=100)
  with console_lib.on_demand(console, 'tokenising'):
    pass
  assert console.file.getvalue() == ''


def test_one_bar_counts_all_things(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(console_lib, 'time', clock)
  console = Console(file=io.StringIO(), width=100)
  with console_lib.on_demand(console, 'tokenising') as report:
    for name, total in (('a', 300), ('b', 100), ('c', 0)):
      report(name, 0, total)
    clock.now += 20.0
    report('a', 100, 300)
    report('b', 50, 60)
    clock.now += 20.0
    report('c', 20, 40)
    report('a', 300, 300)
    report('c', 40, 40)
    report('b', 60, 60)
  # 100 of 400 took 20 s; 170 of 400 took 40 s; the end.
  assert console.file.getvalue().splitlines() == [
    'tokenising: 100/400, 1:00 left a',
    'tokenising: 170/400, 0:54 left c',
    'tokenising: 400/400 b',
  ]


def test_a_terminal_gets_a_bar_that_another_may_interrupt():
  console = Console(file=io.StringIO(), force_terminal=True, width=100)
  with console_lib.bar(console, 'training', 10, done=2) as bar:
    bar.update(3, 'loss 1.5')
    with console_lib.bar(console, 'evaluating', 5) as inner:
      inner.update(5, 'glue_cola')
    bar.update(10, 'loss 0.5')
  text = console.file.getvalue()
  assert '10/10' in text
  assert 'glue_cola' in text
