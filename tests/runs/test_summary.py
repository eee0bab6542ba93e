"""What is printed before the first step, against counts made by hand."""

import io

from rich.console import Console

from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.runs import summary
from hypergrid_jax.training import freezing

D, F, H, K, N, M, V, T = 10, 12, 2, 3, 2, 1, 40, 5
GRID_ROWS, GRID_COLS = 4, 2
CONFIG = T5Config(
  d_model=D,
  d_ff=F,
  num_heads=H,
  d_kv=K,
  num_layers=N,
  num_decoder_layers=M,
  vocab_size=V,
  relative_buckets=6,
)
METHOD = HyperGrid(grid_rows=GRID_ROWS, grid_cols=GRID_COLS, state='task')

ATTENTION = 4 * D * H * K
ENCODER_LAYER = ATTENTION + 2 * D * F + 2 * D
DECODER_LAYER = 2 * ATTENTION + 2 * D * F + 3 * D
PLAIN = V * D + N * ENCODER_LAYER + M * DECODER_LAYER + 2 * (6 * H) + 2 * D
ADDED = (N + M) * (GRID_ROWS + GRID_COLS) * D + 2 * T * D


def everything(model):
  return freezing.trained_parameters(model.logical_axes)


def test_counts():
  model = Model(CONFIG, METHOD.extension_points(), num_tasks=T)
  counts = summary.parameter_counts(model, dict.fromkeys(model.added, 'whole'))
  assert counts['total'] == PLAIN + ADDED
  assert counts['added'] == counts['trained'] == ADDED
  assert counts['per_task'] == 2 * D  # one vector per stack
  assert sum(counts['groups'].values()) == counts['total']
  assert counts['groups']['encoder/layers/feed_forward'] == N * 2 * D * F


def test_a_plain_t5_adds_nothing():
  model = Model(CONFIG, num_tasks=T)
  counts = summary.parameter_counts(model, everything(model))
  assert counts['total'] == counts['trained'] == PLAIN
  assert counts['added'] == counts['per_task'] == 0


def test_layers_that_do_not_train_are_not_counted():
  model = Model(CONFIG, METHOD.extension_points(), num_tasks=T)
  trained = freezing.trained_parameters(
    model.logical_axes, 'added_and_upper_half', added=model.added
  )
  # Of the encoder the upper one of two layers and the last norm; the decoder
  # but not the tied embedding.
  assert summary.parameter_counts(model, trained)['trained'] == (
    ADDED + ENCODER_LAYER + D + M * DECODER_LAYER + 6 * H + D
  )


def test_everything_is_shown():
  data = {
    'tasks': [
      {
        'task': 'glue_wnli',
        'examples': 12345,
        'rate': 0.0625,
        'measured_rate': 0.0618,
        'segments_per_row': 3.25,
        'examples_per_step': 6.5,
        'epochs': 1.75,
      }
    ],
    'rows_per_batch': 24,
    'tokens_per_batch': 3310.4,
    'encoder_padding_fraction': 0.043,
    'decoder_padding_fraction': 0.516,
  }
  model = Model(CONFIG, METHOD.extension_points(), num_tasks=T)
  facts = {
    'parameters': summary.parameter_counts(model, everything(model)),
    'mesh': {'data': 4, 'model': 16},
    'devices': [f'TPU_{number}' for number in range(64)],
    'data': data,
    'per_device': {
      'parameter_bytes': 2_500_000,
      'optimizer_bytes': 1_230_000,
      'rows': 6,
    },
    'flops_per_step': {'step': 4_000_000_000, 'selection': 0},
  }
  console = Console(file=io.StringIO(), width=120)
  summary.show(facts, ['glue_ax has no labels.'], console=console)
  text = console.file.getvalue()
  for shown in (
    f'{PLAIN + ADDED:,} in all',
    f'{ADDED:,} added by the method',
    f'{2 * D} per task',
    'glue_wnli',
    '12,345',
    '0.0625',
    '0.0618',
    '3.25',
    '1.75',
    '24 rows and 3,310 tokens',
    '4.3% of the encoder, 51.6% of the decoder',
    'parameters 2.5 MB, optimiser 1.2 MB, 6 of the 24 rows',
    'Devices: 64, the first TPU_0; mesh data 4 x model 16.',
    'Note: glue_ax has no labels.',
  ):
    assert shown in text, shown
