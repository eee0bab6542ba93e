"""Classes of a user's own in a configuration."""

import dataclasses
import pathlib
import sys

import pytest

from hypergrid_jax.config import registry, run_config
from hypergrid_jax.errors import UserError

REST = (
  'T5Config.d_model=12',
  'T5Config.d_ff=20',
  'T5Config.num_heads=3',
  'T5Config.d_kv=5',
  'T5Config.num_layers=2',
  'T5Config.num_decoder_layers=1',
  'data.mixture=glue',
  'train.num_steps=7',
)
METHOD = """
import dataclasses
from hypergrid_jax.model.extension import ExtensionPoints

@dataclasses.dataclass(frozen=True)
class Scale:
  width: int = 2
  form: str = 'plain'

  def extension_points(self):
    return ExtensionPoints()

class Bare:
  def extension_points(self):
    return ExtensionPoints()

@dataclasses.dataclass(frozen=True)
class Empty:
  pass

@dataclasses.dataclass(frozen=True)
class Halving:
  rate: float = 0.5

  def schedule(self):
    return lambda step: self.rate / (1 + step)
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
  """A module in the working directory; what it registers is forgotten."""
  monkeypatch.chdir(tmp_path)
  pathlib.Path('own_scale.py').write_text(METHOD)
  kept = {kind: dict(names) for kind, names in registry.COMPONENTS.items()}
  yield
  registry.COMPONENTS.clear()
  registry.COMPONENTS.update(kept)
  for name in ('own_scale', 'own_broken', 'own_registered'):
    sys.modules.pop(name, None)


def parse(*bindings, files=(), imports=('own_scale',)):
  return run_config.parse(files, (*REST, *bindings), imports=imports)


def refusal(*bindings, **options):
  with pytest.raises(UserError) as error:
    parse(*bindings, **options)
  return str(error.value)


@pytest.mark.parametrize('spec', ['own_scale', 'own_scale.py'])
def test_a_class_of_an_imported_module_is_a_method(spec):
  run = parse('run.method=own_scale.Scale', 'Scale.width=5', imports=(spec,))
  assert type(run.method).__name__ == 'Scale'
  assert run.method.width == 5
  assert run.imports == ('own_scale.py',)


def test_a_gin_file_imports_a_module_that_lies_beside_it(tmp_path):
  folder = tmp_path / 'there'
  folder.mkdir()
  (tmp_path / 'own_scale.py').rename(folder / 'own_scale.py')
  (folder / 'run.gin').write_text(
    'import own_scale\n'
    'own_scale.Scale.width = 3\n'
    'run.method = (@HyperGrid(), @own_scale.Scale())\n'
    'run.schedule = @own_scale.Halving()\n'
  )
  run = parse(files=('there/run.gin',), imports=())
  assert run.method[1].width == 3
  assert run.schedule.schedule()(1) == 0.25
  assert run.imports == (str(pathlib.Path('there', 'own_scale.py')),)


def test_the_operative_configuration_reads_back(tmp_path):
  run = parse('run.method=own_scale.Scale', 'own_scale.Scale.width=9')
  pathlib.Path('config.gin').write_text(run_config.operative_config(run))
  assert run_config.parse(['config.gin']) == run


def test_a_registered_class_has_its_bare_name():
  pathlib.Path('own_registered.py').write_text(
    'import hypergrid_jax as hg\n'
    + METHOD.replace('@dataclasses', '@hg.register_method\n@dataclasses', 1)
  )
  run = parse('run.method=Scale', 'Scale.width=4', imports=('own_registered',))
  assert run.method.width == 4


def test_a_name_of_the_library_cannot_be_taken():
  cls = type('HyperGrid', (), {'extension_points': lambda self: None})
  with pytest.raises(UserError, match="two classes with the name 'HyperGrid'"):
    registry.register_method(dataclasses.dataclass(cls))


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    (('Scale.width=2.5',), 'Scale.width: got 2.5, expected an integer'),
    (('Scale.widht=2',), "no field 'widht'. Did you mean 'width'"),
  ],
)
def test_fields_have_the_checks_of_the_librarys_own(bindings, message):
  assert message in refusal('run.method=own_scale.Scale', *bindings)


@pytest.mark.parametrize(
  ('method', 'message'),
  [
    ('own_scale.Scal', 'run.method: got own_scale.Scal, expected @HyperGrid()'),
    ('own_scale.Bare', 'own_scale.Bare is not a dataclass'),
    ('own_scale.Empty', 'own_scale.Empty has no method extension_points()'),
    ('elsewhere.Scale', 'needs its module: --import=elsewhere'),
  ],
)
def test_what_is_no_method_is_refused(method, message):
  assert message in refusal(f'run.method={method}')


def test_a_module_that_cannot_be_imported_is_named_with_its_line():
  pathlib.Path('own_broken.py').write_text('x = 1\ny = x / 0\n')
  message = refusal(imports=('own_broken',))
  assert 'own_broken.py:2 cannot be imported: ZeroDivisionError' in message
  pathlib.Path('own_broken.py').write_text('x = (\n')
  assert 'own_broken.py:1 cannot be' in refusal(imports=('own_broken.py',))
  assert "no module 'own_missing'" in refusal(imports=('own_missing',))
  assert 'own_missing.py: there is no' in refusal(imports=('own_missing.py',))


def test_two_modules_of_one_name_are_refused(tmp_path):
  parse()
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'own_scale.py').write_text('x = 1\n')
  message = refusal(imports=('other/own_scale.py',))
  assert "another module is called 'own_scale'" in message
