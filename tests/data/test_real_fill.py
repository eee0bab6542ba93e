"""How full rows of real GLUE and SuperGLUE data are, with T5's vocabulary."""

import dataclasses

import pytest

from hypergrid_jax.data import loader, sampling
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import vocabularies

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def fill(data, stores):
  sizes = {name: store.num_examples for name, store in stores.items()}
  made = loader.Loader(
    stores,
    task_ids={name: number for number, name in enumerate(stores)},
    rates=sampling.mixing_rates(sizes, data),
    batch_size=data.batch_size,
    row_lengths=data.row_lengths,
    max_segments=data.segments,
    seed=0,
    packed=data.pack,
    length_buckets=data.length_buckets,
  )
  return 1 - made.summary(num_steps=1)['encoder_padding_fraction']


def test_rows_of_the_mixture_are_full(real_data, tmp_path, record_property):
  model = real_data / 'vocab' / 't5.sentencepiece.model'
  if not model.exists():
    pytest.skip("the directory has no vocabulary of T5's")
  data = DataConfig(
    mixture='glue_super_glue',
    source=f'files:{real_data}',
    vocabulary=str(model),
    missing_train='skip',
  )
  stores = datasets.open_corpus(
    data,
    vocabularies.load_vocabulary(data.vocabulary),
    token_dir=tmp_path,
    only=('super_glue_cb',),  # training sets are what rows are made of
  ).train
  found = {
    name: fill(dataclasses.replace(data, **changes), stores)
    for name, changes in {
      'packed_512': {},
      'packed_1024': {'row_length': 1024},
      'unpacked': {'pack': False},
      'bucketed': {
        'pack': False,
        'length_buckets': (32, 64, 128, 256, 512),
      },
    }.items()
  }
  for name, share in found.items():
    record_property(name, share)
  assert found['packed_512'] >= 0.92
  assert found['packed_1024'] >= 0.96
  assert found['unpacked'] < 0.25 < 0.7 < found['bucketed']
