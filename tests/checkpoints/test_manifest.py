import json

import pytest

from hypergrid_jax.checkpoints import manifest

BODY = {'leaves': {'w': ['float32', [2, 3]]}, 'numbers': {1: (0.1, 2)}}


@pytest.fixture
def directory(tmp_path):
  (tmp_path / 'inner').mkdir()
  (tmp_path / 'a').write_bytes(bytes(range(200)))
  (tmp_path / 'inner' / 'b').write_bytes(b'xyz')
  (tmp_path / 'inner' / 'empty').write_bytes(b'')
  manifest.write(tmp_path, BODY)
  return tmp_path


def files(directory):
  return sorted(path for path in directory.rglob('*') if path.is_file())


def test_an_untouched_directory_has_no_problem(directory):
  assert manifest.is_finished(directory)
  assert manifest.problem(directory) is None
  assert manifest.read_body(directory) == json.loads(json.dumps(BODY))
  assert len(files(directory)) == 4


def test_a_directory_without_manifest_was_never_finished(directory):
  (directory / manifest.NAME).unlink()
  assert not manifest.is_finished(directory)
  assert 'never finished' in manifest.problem(directory)
  with pytest.raises(FileNotFoundError):
    manifest.read_body(directory)


def test_every_kind_of_damage_to_every_file_is_found(directory):
  for path in files(directory):
    good = path.read_bytes()
    for place in {0, len(good) // 2, len(good) - 1} if good else ():
      for bit in (0, 6):
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        path.write_bytes(bad)
        assert path.name in manifest.problem(directory), (path, place, bit)
    if good:
      path.write_bytes(good[:-1])
      assert path.name in manifest.problem(directory)
    path.write_bytes(good + b'\x00')
    assert path.name in manifest.problem(directory)
    path.unlink()
    assert manifest.problem(directory) is not None
    path.write_bytes(good)
    assert manifest.problem(directory) is None


def test_a_changed_body_is_not_believed(directory):
  path = directory / manifest.NAME
  path.write_text(path.read_text().replace('float32', 'float16'))
  with pytest.raises(ValueError, match='CRC-32'):
    manifest.read_body(directory)
