"""The report of `hypergrid doctor`."""

import io

from rich.console import Console

from hypergrid_jax.cli import doctor, main
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import tensorflow_guard


def report(source=None):
  console = Console(file=io.StringIO(), width=500)
  code = doctor.report(source, console=console)
  return code, console.file.getvalue()


def line_of(text, subject):
  return next(line for line in text.splitlines() if f' {subject} ' in line)


def test_an_environment_that_has_everything_is_ready():
  code, text = report()
  assert code == 0
  assert text.endswith('Ready.\n')
  for subject in ('python', 'jax', 'seqio', 'devices', 'source sample'):
    assert line_of(text, subject).split()[0] == 'ok'
  assert '8 x cpu' in text


def test_a_missing_package_comes_with_its_install_line(monkeypatch):
  monkeypatch.setattr(doctor, 'PACKAGES', ('jax', 'no-such-package'))
  code, text = report()
  assert code == 1
  assert 'pip install no-such-package' in line_of(text, 'no-such-package')
  assert '1 to repair' in text


def test_another_version_is_a_note(monkeypatch):
  monkeypatch.setattr(doctor, 'tested_versions', lambda: {'jax': '0.0.1'})
  code, text = report()
  assert code == 0
  assert line_of(text, 'jax').split()[0] == 'note'
  assert 'tested with 0.0.1' in line_of(text, 'jax')


def test_the_wrong_files_come_with_the_repair(monkeypatch):
  def refuse():
    raise UserError('pip install --force-reinstall --no-deps seqio==1')

  monkeypatch.setattr(tensorflow_guard, 'check', refuse)
  code, text = report()
  assert code == 1
  assert '--force-reinstall' in line_of(text, 'seqio and TFDS files')


def test_devices_that_fail_do_not_end_the_report(monkeypatch):
  import jax

  def fail():
    raise RuntimeError('no backend')

  monkeypatch.setattr(jax, 'devices', fail)
  code, text = report()
  assert code == 1
  assert 'no backend' in line_of(text, 'devices')
  assert 'source tfds' in text


def test_an_accelerator_that_jax_ignores_is_noted(monkeypatch, tmp_path):
  (tmp_path / 'accel').touch()
  files = {'TPU': (str(tmp_path / 'accel'), 'tpu'), 'GPU': ('/no', 'gpu')}
  monkeypatch.setattr(doctor, 'ACCELERATOR_FILES', files)
  code, text = report()
  assert code == 0
  assert ".[tpu]'" in text
  assert ".[gpu]'" not in text


def test_a_directory_of_files_is_checked(tmp_path):
  code, text = report(f'files:{tmp_path}')
  assert code == 1
  assert 'no file of any task' in text
  (tmp_path / 'glue' / 'cola').mkdir(parents=True)
  (tmp_path / 'glue' / 'cola' / 'train.tsv').touch()
  code, text = report(f'files:{tmp_path}')
  assert code == 0
  line = line_of(text, f'source files:{tmp_path}')
  assert '1 tasks with a training set' in line
  assert report('files:no')[0] == 1


def test_prepared_data_sets_are_counted(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert line_of(report()[1], 'source tfds').split()[0] == 'note'
  for name in ('rte', 'wnli'):
    (tmp_path / 'glue' / name / '2.0.0').mkdir(parents=True)
  line = line_of(report()[1], 'source tfds')
  assert line.split()[0] == 'ok'
  assert f'2 data sets prepared in {tmp_path}' in line


def test_versions_are_those_of_this_python(monkeypatch, tmp_path):
  (tmp_path / 'constraints.txt').write_text(
    '# a comment\nJax==1 ; python_version < "3.11"\n'
    'Jax==2 ; python_version >= "3.11"\nimportlib_resources==3\n'
  )
  inside = tmp_path / 'hypergrid_jax' / 'cli' / 'doctor.py'
  monkeypatch.setattr(doctor, '__file__', str(inside))
  wanted = {'jax': '2', 'importlib-resources': '3'}
  assert doctor.tested_versions() == wanted
  (tmp_path / 'constraints.txt').unlink()
  assert doctor.tested_versions() == {}


def test_the_verb_passes_the_exit_code_on(monkeypatch, capsys):
  monkeypatch.setattr(doctor, 'PACKAGES', ('no-such-package',))
  assert main.main(['doctor']) == 1
  assert 'no-such-package' in capsys.readouterr().out
