"""Hugging Face's own T5 beside ours: weights in, weights out, and back.

transformers runs in a process of its own, under this Python or the one that
HYPERGRID_TORCH_PYTHON names.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from hypergrid_jax import trees
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.interop import exporting, hf_tokenizer, trained
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import decoding
from hypergrid_jax.tasks import vocabularies
from tests.interop import runs

pytestmark = [
  pytest.mark.torch,
  pytest.mark.slow,  # two processes that load PyTorch, and 20 compilations
  pytest.mark.usefixtures('compile_quickly'),
]

PROGRAM = pathlib.Path(__file__).with_name('transformers_process.py')
ATOL = 1e-5
SIZES = {
  'd_model': 24,
  'd_ff': 40,
  'num_heads': 3,
  'd_kv': 7,  # 21 of all heads, not 24
  'num_layers': 3,
  'num_decoder_layers': 2,
  'vocab_size': 83,  # no multiple of 128
}
GATED = {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}
MODELS = {
  '1.0': {'config': SIZES, 'seed': 1},
  '1.1': {'config': {**SIZES, **GATED}, 'head': True, 'seed': 2},
  '1.1 wide': {
    'config': {
      **SIZES,
      **GATED,
      'd_kv': 11,
      'num_layers': 1,
      'num_decoder_layers': 4,
      'relative_attention_num_buckets': 12,
      'relative_attention_max_distance': 20,
    },
    'head': True,
    'seed': 3,
    'shard': '9KB',
  },
  'half': {'config': SIZES, 'seed': 4, 'dtype': 'bfloat16'},
}
TASK = 'glue_cola'
METHODS = {
  'gates': HyperGrid(grid_rows=4, grid_cols=3, state='task'),
  'norms': CAMTL(
    alignment=False, attention=None, bottleneck=None, decoder_norm=True
  ),
}
# Version 5 ties the two tables of every T5 in its configuration, and says this
# of each one that has two, Google's own T5 1.1 included.
TYING = 'The tied weights mapping and config for this model specifies to tie'
TEXTS = [
  'cola sentence: A moving film.',
  '  two  spaces \n and a line',
  'ﬁne ½ Ünï 日本',
  '',
  'ends with <extra_id_3>',
]


def transformers(folder, jobs):
  """Runs jobs in one process of transformers."""
  file = folder / 'jobs.json'
  file.write_text(json.dumps(jobs))
  python = os.environ.get('HYPERGRID_TORCH_PYTHON', sys.executable)
  done = subprocess.run(
    [python, PROGRAM, file], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Everything on disk: their models, our imports, exports, their answers."""
  folder = tmp_path_factory.mktemp('transformers')
  jobs = [
    {'do': 'make', 'out': str(folder / f'{name}-theirs'), **job}
    for name, job in MODELS.items()
  ]
  transformers(folder, jobs)
  jobs = []
  for name in MODELS:
    theirs, ours, back = (
      str(folder / f'{name}-{part}') for part in ('theirs', 'ours', 'back')
    )
    assert main.main(['import', '--from', theirs, '--to', ours]) == 0
    assert main.main(['export', '--model_dir', ours, '--output', back]) == 0
    jobs += [
      {'do': 'run', 'path': path, 'out': f'{path}.npz'}
      for path in (theirs, back)
    ]
  for name, method in METHODS.items():
    run, out = folder / f'{name}-run', folder / f'{name}-out'
    runs.write(run, method)
    flags = [f'--model_dir={run}', f'--output={out}', f'--task={TASK}']
    assert main.main(['export', *flags]) == 0
    jobs.append({'do': 'run', 'path': str(out), 'out': f'{out}.npz'})
  for name, path in (('sample', 'sample'), ('t5', _t5_like(folder))):
    (folder / name).mkdir()
    assert hf_tokenizer.write(folder / name, path)
    job = {'do': 'tokenize', 'path': str(folder / name), 'texts': TEXTS}
    jobs.append({**job, 'out': str(folder / f'{name}.json')})
  transformers(folder, jobs)
  return folder


def _t5_like(folder):
  """A model file with as many pieces as T5's, which brings 100 extra ids."""
  from sentencepiece import sentencepiece_model_pb2

  path = vocabularies.vocabulary_path('sample')
  model = sentencepiece_model_pb2.ModelProto.FromString(
    pathlib.Path(path).read_bytes()
  )
  model.normalizer_spec.remove_extra_whitespaces = True
  for number in range(vocabularies.T5_PIECES - len(model.pieces)):
    model.pieces.add(piece=f'unused piece {number}', score=-99.0)
  written = folder / 't5.model'
  written.write_bytes(model.SerializeToString())
  return str(written)


def answers(folder, name):
  with np.load(folder / f'{name}.npz') as found:
    return found['logits'], found['written'], json.loads(str(found['report']))


def our_answers(source, shape, task_id=0, ids=None):
  """Logits and greedy tokens for the rows of `transformers_process`."""
  tokens, mask, targets = _rows(ids or SIZES['vocab_size'])
  batch = exporting.sample_rows(SIZES['vocab_size'], task_id)
  ones = np.ones(targets.shape, np.int32)
  batch = type(batch)(
    encoder_input_tokens=tokens,
    encoder_segment_ids=mask,
    encoder_positions=np.zeros_like(mask),
    encoder_segment_starts=np.zeros((len(mask), 1), np.int32),
    decoder_input_tokens=targets,
    decoder_target_tokens=targets,
    decoder_segment_ids=ones,
    decoder_positions=0 * ones,
    decoder_loss_weights=ones.astype(np.float32),
    task_ids=np.full(len(mask), task_id, np.int32),
  )
  params = trees.unflatten(source.params)
  logits = exporting.logits(source.model, params, batch)

  @jax.jit
  def decode(params):
    return decoding.greedy_decode(
      source.model,
      params,
      jnp.asarray(tokens),
      jnp.asarray(batch.task_ids),
      max_decode_length=shape[1],
    )

  return logits, np.asarray(decode(params))


def _rows(ids):
  """As `transformers_process.rows`, which loads PyTorch."""
  rng = np.random.default_rng(ids)
  lengths = np.array([13, 7, 4])
  mask = np.arange(13) < lengths[:, None]
  tokens = np.where(mask, rng.integers(2, ids, mask.shape), 0)
  targets = rng.integers(2, ids, (3, 6))
  targets[:, 0] = 0
  return (x.astype(np.int32) for x in (tokens, mask, targets))


def same_tokens(written, ours):
  """Theirs begin with the start token and end with the longest row."""
  theirs = written[:, 1:]
  np.testing.assert_array_equal(theirs, ours[:, : theirs.shape[1]])
  assert not ours[:, theirs.shape[1] :].any()


@pytest.mark.parametrize('name', MODELS)
def test_an_import_computes_and_writes_what_theirs_does(name, folder):
  logits, written, _ = answers(folder, f'{name}-theirs')
  source = trained.load(None, folder / f'{name}-ours')
  ours, tokens = our_answers(source, (3, 12))
  ours = ours[..., : SIZES['vocab_size']]
  assert np.abs(logits).max() > 1
  assert np.abs(ours - logits).max() <= ATOL
  assert len(np.unique(written)) >= 3  # not only the start
  same_tokens(written, tokens)


@pytest.mark.parametrize('name', MODELS)
def test_an_export_is_loaded_in_silence_and_is_the_same(name, folder):
  theirs, written, _ = answers(folder, f'{name}-theirs')
  logits, tokens, report = answers(folder, f'{name}-back')
  np.testing.assert_array_equal(logits, theirs)
  np.testing.assert_array_equal(tokens, written)
  said = report.pop('said').strip()
  assert not any(report.values()), report
  if MODELS[name].get('head'):
    assert said.startswith(TYING)
    assert len(said.splitlines()) == 1
  else:
    assert said == ''


@pytest.mark.parametrize('name', MODELS)
def test_the_round_trip_is_bit_for_bit(name, folder):
  sides = []
  for part in ('theirs', 'back'):
    tensors = {}
    for file in (folder / f'{name}-{part}').glob('*.safetensors'):
      tensors |= load_file(file)
    sides.append(tensors)
  theirs, back = sides
  assert 'shared.weight' in back
  assert set(theirs) == set(back)
  for key, value in theirs.items():
    assert back[key].tobytes() == value.astype(np.float32).tobytes(), key


@pytest.mark.parametrize('name', METHODS)
def test_one_task_as_a_plain_t5(name, folder):
  run = run_config.parse([str(folder / f'{name}-run/config.gin')])
  source = trained.load(run, folder / f'{name}-run')
  ids = source.model.config.vocab_size
  ours, tokens = our_answers(source, (3, 12), source.task_ids[TASK], ids=ids)
  logits, written, report = answers(folder, f'{name}-out')
  assert np.abs(ours - logits).max() <= ATOL
  same_tokens(written, tokens)
  assert report.pop('said') == ''
  assert not any(report.values()), report


@pytest.mark.parametrize('name', ['sample', 't5'])
def test_auto_tokenizer_gives_our_ids(name, folder):
  path = 'sample' if name == 'sample' else str(folder / 't5.model')
  vocabulary = vocabularies.load_vocabulary(path)
  found = json.loads((folder / f'{name}.json').read_text())
  assert (vocabulary.extra_ids == 100) == (name == 't5')
  expected = [[*vocabulary.encode(text), vocabulary.eos_id] for text in TEXTS]
  assert found['ids'] == expected
