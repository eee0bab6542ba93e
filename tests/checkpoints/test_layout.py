"""The format on the disk: what is written today is read by later versions."""

import json
import zlib

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from hypergrid_jax.checkpoints.reader import CheckpointReader
from hypergrid_jax.checkpoints.writer import Checkpointer

LEAVES = {
  'opt_state/0/count': ['int32', []],
  'params/a/w': ['bfloat16', [2, 3]],
  'step': ['int32', []],
}


def test_a_checkpoint_on_the_disk(tmp_path):
  state = {
    'step': jnp.int32(4),
    'params': {'a': {'w': jnp.ones((2, 3), jnp.bfloat16)}},
    'opt_state': ({'count': jnp.int32(4)},),
  }
  checkpoints = Checkpointer(tmp_path, fingerprint={'rate': 0.1})
  checkpoints.save(4, state, {'seen': 40})
  checkpoints.mark_best(4, 71.5, name='glue_rte')
  checkpoints.close()
  directory = tmp_path / 'checkpoints' / '4'
  best = json.loads((tmp_path / 'checkpoints' / 'best.json').read_bytes())
  del best['crc32']
  assert best == {'glue_rte': {'step': 4, 'value': 71.5}}
  manifest = json.loads((directory / 'manifest.json').read_bytes())
  files = manifest.pop('files')
  seal = manifest.pop('crc32')
  assert manifest == {
    'body': {
      'leaves': LEAVES,
      'meta': {'fingerprint': {'rate': 0.1}, 'seen': 40, 'step': 4},
    }
  }
  text = json.dumps({**manifest, 'files': files}, indent=1, sort_keys=True)
  assert seal == zlib.crc32(f'{text}\n'.encode())
  contents = {
    path.relative_to(directory).as_posix(): path.read_bytes()
    for path in directory.rglob('*')
    if path.is_file() and path.name != 'manifest.json'
  }
  assert {name.split('/')[0] for name in contents} == {'params', 'training'}
  assert files == {
    name: [len(content), zlib.crc32(content)]
    for name, content in contents.items()
  }


def test_a_checkpoint_that_was_written_before_is_read(tmp_path):
  """Files as Orbax's standard handler and the manifest's format make them."""
  directory = tmp_path / 'checkpoints' / '4'
  items = {
    'params': {'params': {'a': {'w': jnp.ones((2, 3), jnp.bfloat16)}}},
    'training': {
      'step': jnp.int32(4),
      'opt_state': {'0': {'count': jnp.int32(9)}},
    },
  }
  directory.mkdir(parents=True)
  with ocp.StandardCheckpointer() as checkpointer:
    for name, tree in items.items():
      checkpointer.save(directory / name, tree)
  files = {
    path.relative_to(directory).as_posix(): [
      path.stat().st_size,
      zlib.crc32(path.read_bytes()),
    ]
    for path in directory.rglob('*')
    if path.is_file()
  }
  meta = {'fingerprint': {}, 'step': 4}
  content = {'body': {'leaves': LEAVES, 'meta': meta}, 'files': files}
  text = json.dumps(content, indent=1, sort_keys=True) + '\n'
  content['crc32'] = zlib.crc32(text.encode())
  text = json.dumps(content, indent=1, sort_keys=True) + '\n'
  (directory / 'manifest.json').write_text(text)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  scalar = jax.ShapeDtypeStruct((), 'int32', sharding=sharding)
  weight = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16, sharding=sharding)
  target = {
    'step': scalar,
    'params': {'a': {'w': weight}},
    'opt_state': ({'count': scalar},),
  }
  state, read = CheckpointReader(tmp_path).restore(target)
  assert read == meta
  assert int(state['step']) == 4
  assert int(state['opt_state'][0]['count']) == 9
  assert state['params']['a']['w'].tolist() == [[1.0] * 3] * 2
