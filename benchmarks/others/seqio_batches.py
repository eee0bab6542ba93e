"""Packed batches as `seqio.get_dataset` makes them, for comparison."""

from collections.abc import Iterator
import json
import pathlib

import seqio
import tensorflow as tf

from hypergrid_jax.data import sampling
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.tasks.seqio import registry


def batches(
  mixture: seqio.Mixture, data: DataConfig, *, use_cached: bool
) -> Iterator[tuple[int, int, int]]:
  """Yields rows, examples and tokens of batches of the same row lengths."""
  dataset = seqio.get_dataset(
    mixture,
    dict(zip(('inputs', 'targets'), data.row_lengths, strict=True)),
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
    use_cached=use_cached,
    shuffle=True,
    num_epochs=None,
    seed=0,
    batch_size=data.batch_size,
  )
  for batch in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
    yield (
      len(batch['encoder_input_tokens']),
      int(batch['encoder_segment_ids'].max(axis=1).sum()),
      int((batch['encoder_segment_ids'] > 0).sum())
      + int((batch['decoder_segment_ids'] > 0).sum()),
    )


def make_mixture(data: DataConfig, stores) -> seqio.Mixture:
  """The same tasks at the same rates as a seqio mixture."""
  sizes = {name: store.num_examples for name, store in stores.items()}
  return seqio.Mixture(
    'measured',
    [
      (
        registry.seqio_task(
          name, source=data.source, vocabulary=data.vocabulary
        ),
        rate,
      )
      for name, rate in sampling.mixing_rates(sizes, data).items()
    ],
  )


def write_cache(mixture: seqio.Mixture, root: pathlib.Path) -> None:
  """Tokenises the tasks into seqio's cache, which memory will then hold.

  The cache has what packing reads and no text, which makes it faster than the
  one that seqio's own script writes.
  """
  for task in mixture.tasks:
    folder = root / task.name
    folder.mkdir(parents=True)
    count = 0
    with tf.io.TFRecordWriter(
      str(folder / 'train.tfrecord-00000-of-00001')
    ) as file:
      rows = task.source.get_dataset('train', shuffle=False)
      for example in task.preprocess_precache(rows).as_numpy_iterator():
        features = {
          name: tf.train.Feature(
            int64_list=tf.train.Int64List(value=example[name])
          )
          for name in ('inputs', 'targets')
        }
        record = tf.train.Example(features=tf.train.Features(feature=features))
        file.write(record.SerializeToString())
        count += 1
    shapes = {
      name: {'dtype': 'int32', 'shape': [None]}
      for name in ('inputs', 'targets')
    }
    info = {'num_shards': 1, 'features': shapes, 'seqio_version': '0.0.20'}
    (folder / 'info.train.json').write_text(json.dumps(info))
    (folder / 'stats.train.json').write_text(json.dumps({'examples': count}))
    (folder / 'COMPLETED').touch()
  seqio.add_global_cache_dirs([str(root)])
  # It holds data sets below 10,000 examples in memory; here, all of them.
  seqio.dataset_providers._MAX_EXAMPLES_TO_MEM_CACHE = 10**9
