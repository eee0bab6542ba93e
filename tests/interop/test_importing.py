"""Weights of other programs become the same function and the same bits."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrid_jax import trees
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import exporting, importing, trained
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model, decoding, extension
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import state
from tests import refusals
from tests.goldens import make_hf_golden as hf
from tests.interop import directories

pytestmark = pytest.mark.usefixtures('compile_quickly')

ATOL = 1e-5
ROWS = hf.ODD_SIZES['vocab_size']


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def run_import(source, *flags, target='ck'):
  assert (
    main.main(['import', '--from', str(source), '--to', target, *flags]) == 0
  )
  return trained.load(None, target)


def golden_logits(model, params):
  """Logits at the recorded positions."""
  inputs, targets = hf.tokens(hf.CASES['1.0'])
  batch = exporting.sample_rows(ROWS, 0)
  sides = {}
  for side, mask in zip(('encoder', 'decoder'), hf.masks(), strict=True):
    sides[f'{side}_segment_ids'] = mask.astype(np.int32)
    sides[f'{side}_positions'] = np.zeros(mask.shape, np.int32)
  batch = dataclasses.replace(
    batch,
    **sides,
    encoder_input_tokens=inputs,
    decoder_input_tokens=targets,
    encoder_segment_starts=np.zeros((len(inputs), 1), np.int32),
    task_ids=np.zeros(len(inputs), np.int32),
  )
  values = exporting.logits(model, trees.unflatten(params), batch)
  return values[hf.masks()[1]]


@pytest.mark.parametrize('name', hf.CASES)
def test_logits_equal_the_recorded_ones_of_transformers(name, tmp_path):
  found = run_import(directories.write_hf(tmp_path / 'hf', name))
  with np.load(hf.GOLDEN) as golden:
    expected = golden[f'{name}/logits'][hf.masks()[1]]
  actual = golden_logits(found.model, found.params)
  assert actual.shape[-1] == 128
  np.testing.assert_allclose(actual[:, :ROWS], expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize('name', hf.CASES)
def test_every_parameter_is_in_its_place(name, tmp_path):
  found = run_import(
    directories.write_hf(tmp_path / 'hf', name), f'--vocab_rows={ROWS}'
  )
  expected = directories.ours(name)
  assert set(found.params) == set(expected)
  for path, value in expected.items():
    np.testing.assert_array_equal(found.params[path], value, err_msg=path)
  fields = ('vocab_size', 'relative_buckets', 'relative_max_distance')
  for field in (*importing.FUNCTION_FIELDS, *fields):
    wanted = getattr(hf.CASES[name], field)
    assert getattr(found.model.config, field) == wanted, field


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_becomes_float32_without_loss(dtype, tmp_path):
  halves = {
    name: value.astype(jnp.dtype(dtype))
    for name, value in directories.tensors('1.1').items()
  }
  found = run_import(
    directories.write_hf(tmp_path / 'hf', '1.1', content=halves),
    f'--vocab_rows={ROWS}',
  )
  for path, value in directories.ours('1.1').items():
    expected = value.astype(jnp.dtype(dtype)).astype(np.float32)
    assert found.params[path].dtype == np.float32
    np.testing.assert_array_equal(found.params[path], expected, err_msg=path)


def test_shards_are_put_together(tmp_path):
  found = run_import(
    directories.write_hf(tmp_path / 'hf', '1.1', shards=4),
    f'--vocab_rows={ROWS}',
  )
  for path, value in directories.ours('1.1').items():
    np.testing.assert_array_equal(found.params[path], value, err_msg=path)


@pytest.mark.parametrize('name', hf.CASES)
@pytest.mark.parametrize(
  ('write', 'place'),
  [
    (directories.write_mesh_tf, 'model.ckpt-7'),
    (directories.write_t5x, 'checkpoint_7'),
  ],
)
def test_the_originals_give_the_same_bits(write, place, name, tmp_path):
  written = write(tmp_path / place, name)
  found = run_import(written, f'--vocab_rows={ROWS}')
  for path, value in directories.ours(name).items():
    np.testing.assert_array_equal(found.params[path], value, err_msg=path)
  # The shapes tell all sizes but this one.
  config = dataclasses.replace(
    found.model.config,
    relative_max_distance=hf.CASES[name].relative_max_distance,
  )
  assert config == dataclasses.replace(hf.CASES[name], dtype='float32')


def test_a_t5x_directory_with_one_checkpoint_and_bfloat16(tmp_path):
  directories.write_t5x(tmp_path / 'x/checkpoint_5', dtype=jnp.bfloat16)
  found = run_import(tmp_path / 'x', f'--vocab_rows={ROWS}')
  for path, value in directories.ours('1.0').items():
    expected = value.astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found.params[path], expected, err_msg=path)


def test_added_rows_never_win(tmp_path):
  name = '1.1'  # has rows in two tables
  source = directories.write_hf(tmp_path / 'hf', name)
  exact = run_import(source, f'--vocab_rows={ROWS}', target='exact')
  padded = run_import(source, target='padded')
  assert padded.model.config.vocab_size == 128
  tokens = []
  for found in (exact, padded):
    decode = functools.partial(
      decoding.greedy_decode, found.model, max_decode_length=14
    )
    written = jax.jit(decode)(
      trees.unflatten(found.params),
      hf.tokens(hf.CASES[name])[0],
      np.zeros(3, np.int32),
    )
    tokens.append(np.asarray(written))
  np.testing.assert_array_equal(*tokens)
  values = golden_logits(padded.model, padded.params)
  zero = np.repeat(values[:, :1], 128 - ROWS, axis=1)
  np.testing.assert_allclose(values[:, ROWS:], zero, rtol=0, atol=ATOL)


def test_old_conversions_have_a_tensor_that_nothing_reads(tmp_path, capsys):
  name = (
    'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
  )
  content = {**directories.tensors('1.0'), name: np.ones((32, 3), np.float32)}
  run_import(directories.write_hf(tmp_path / 'hf', content=content))
  assert f'Left out: {name}' in capsys.readouterr().out


@pytest.mark.parametrize(
  'names', [('encoder.embed_tokens.weight',), ('lm_head.weight',)]
)
def test_a_copy_stands_in_for_the_embedding(names, tmp_path):
  content = directories.tensors('1.0')
  value = content.pop('shared.weight')
  content |= dict.fromkeys(names, value)
  found = run_import(directories.write_hf(tmp_path / 'hf', content=content))
  np.testing.assert_array_equal(
    found.params['token_embedder/embedding'][:ROWS], value
  )


def test_the_sizes_are_written_as_gin(tmp_path):
  run_import(directories.write_hf(tmp_path / 'hf', '1.1'))
  run = run_config.parse(['gin/runs/quickstart_plain.gin', 'ck/model.gin'])
  wanted = dataclasses.replace(hf.CASES['1.1'], vocab_size=128)
  for field in (*importing.FUNCTION_FIELDS, 'vocab_size'):
    assert getattr(run.model, field) == getattr(wanted, field), field


def test_version_5_of_transformers_hides_that_the_output_is_not_scaled(
  tmp_path,
):
  # It writes tie_word_embeddings as true whatever it was.
  found = run_import(
    directories.write_hf(
      tmp_path / 'hf',
      '1.1',
      tie_word_embeddings=True,
      scale_decoder_outputs=False,
    )
  )
  assert not found.model.config.logits_via_embedding


class TestRun:
  def test_new_parameters_are_those_of_training(self):
    method = HyperGrid(grid_rows=4, grid_cols=3, state='task')
    model = Model(hf.CASES['1.0'], method.extension_points(), num_tasks=3)
    drawn = importing.drawn(model, 5)
    assert set(drawn) == model.added
    trained_from = state.create_state(
      model,
      optax.identity(),
      jax.random.key(5),
      partitioning.make_mesh(partitioning.MeshConfig()),
    )
    expected = trees.flatten(trained_from.params)
    for path, leaf in drawn.items():
      np.testing.assert_array_equal(leaf.load(), expected[path], err_msg=path)
    assert any(leaf.load().any() for leaf in drawn.values())

  @pytest.mark.parametrize(
    ('sizes', 'said'),
    [
      ({'d_ff': 41}, 'T5Config.d_ff = 41, the weights have 40'),
      ({'mlp_activations': ('gelu',)}, 'T5Config.mlp_activations'),
      ({'vocab_size': 80}, 'vocab_size = 80, the weights have 83 rows'),
    ],
  )
  def test_another_t5_than_the_run_s_is_refused(self, sizes, said):
    config = dataclasses.replace(hf.CASES['1.0'], **sizes)
    model = Model(config, extension.ExtensionPoints())
    with pytest.raises(UserError, match=said):
      importing.fitted(hf.CASES['1.0'], 'here', object(), model, None)


class TestPlan:
  def test_every_tensor_is_listed_and_nothing_written(self, tmp_path, capsys):
    source = directories.write_hf(tmp_path / 'hf', '1.1', shards=2)
    before = refusals.files('.')
    assert main.main(['import', '--from', str(source), '--plan']) == 0
    printed = capsys.readouterr().out
    for name in directories.tensors('1.1'):
      assert f'{name}  float32' in printed
    assert '-> decoder/layers/feed_forward/wi_1[1]\n' in printed
    assert refusals.files('.') == before

  def test_eleven_billion_from_config_json_alone(self, tmp_path, capsys):
    sizes = {
      'd_model': 1024,
      'd_ff': 65536,
      'num_heads': 128,
      'd_kv': 128,
      'num_layers': 24,
      'num_decoder_layers': 24,
      'vocab_size': 32128,
    }
    source = directories.write_hf(tmp_path / 'hf', content={}, **sizes)
    (source / directories.WEIGHTS).unlink()
    assert main.main(['import', '--from', str(source), '--plan']) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line for line in lines if ' -> ' in line]
    # q k v o, wi wo and two norms; twice the attention in the decoder, one norm
    # more; a position bias and a final norm each; the embedding.
    assert len(listed) == 24 * 8 + 24 * 13 + 2 * 2 + 1
    assert '45.23 GB to write' in lines[-1]

  def test_headers_are_enough(self, tmp_path, capsys):
    source = directories.write_hf(tmp_path / 'hf')
    path = source / directories.WEIGHTS
    length = int.from_bytes(path.read_bytes()[:8], 'little')
    header = json.loads(path.read_bytes()[8 : 8 + length])
    # A hole of zeros in the place of all numbers: what reads them refuses.
    size = path.stat().st_size
    with path.open('r+b') as file:
      file.truncate(8 + length)
      file.truncate(size)
    assert main.main(['import', '--from', str(source), '--plan']) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in header if name != '__metadata__')


def test_what_is_there_is_not_overwritten(tmp_path, capsys):
  source = directories.write_hf(tmp_path / 'hf')
  refusals.write('ck/notes.txt', 'mine')
  said = refusals.refusal(
    capsys, ['import', '--from', str(source), '--to', 'ck']
  )
  assert 'ck is there already' in said


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--to=ck', 'train.seed=3'], 'no run to set this in'),
    ([], '--to is missing'),
    (['--to=ck', '--vocab_rows=82'], 'hf has 83 rows, of which none'),
  ],
)
def test_flags_that_do_not_fit(arguments, said, tmp_path, capsys):
  directories.write_hf('hf')
  assert said in refusals.refusal(capsys, ['import', '--from=hf', *arguments])


def test_no_temporary_files_stay(tmp_path):
  run_import(directories.write_hf(tmp_path / 'hf'))
  assert {p.name for p in pathlib.Path('.').iterdir()} == {'hf', 'ck'}
  assert {p.name for p in pathlib.Path('ck').iterdir()} == {
    'checkpoints',
    'model.gin',
  }
