import itertools

import pytest

from hypergrid_jax.checkpoints import sealed_json

CONTENT = {'b': [1, 2.5, None], 'a': {'ä': 'text'}}


@pytest.fixture
def path(tmp_path):
  sealed_json.write(tmp_path / 'x.json', CONTENT)
  return tmp_path / 'x.json'


def test_comes_back_as_json_makes_it(path):
  assert sealed_json.read(path) == CONTENT
  sealed_json.write(path, {'tuple': (1, 2), 'number keys': {3: 4}})
  assert sealed_json.read(path) == {'tuple': [1, 2], 'number keys': {'3': 4}}


def is_refused(path, content):
  path.write_bytes(content)
  try:
    sealed_json.read(path)
  except ValueError:
    return True
  return False


def test_no_change_of_any_byte_goes_unnoticed(path):
  content = path.read_bytes()
  for place, bit in itertools.product(range(len(content)), (0, 3, 7)):
    bad = bytearray(content)
    bad[place] ^= 1 << bit
    assert is_refused(path, bad), (place, bit)
  for end in range(len(content)):
    assert is_refused(path, content[:end]), end
  assert is_refused(path, content + b'\n')
  assert not is_refused(path, content)


def test_without_a_seal_it_is_not_believed(path):
  path.write_text('{\n "a": 1\n}\n')
  with pytest.raises(ValueError, match='CRC-32'):
    sealed_json.read(path)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError):
    sealed_json.read(tmp_path / 'none.json')
