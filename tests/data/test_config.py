import pytest

from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('mixture', ''),
    ('mixture', ()),
    ('mixture', 3),
    ('mixture', ('glue_sst2', 'glue_sst2')),
    ('source', 'file:here'),
    ('source', 'files:'),
    ('source', 7),
    ('vocabulary', ''),
    ('inputs_length', 1),
    ('inputs_length', 64.0),
    ('targets_length', True),
    ('row_length', 0),
    ('row_targets_length', -1),
    ('max_segments', 0),
    ('batch_size', '128'),
    ('pack', 1),
    ('length_buckets', ()),
    ('length_buckets', 512),
    ('length_buckets', '512'),
    ('length_buckets', (0, 512)),
    ('length_buckets', (64.0, 512)),
    ('length_buckets', (True, 512)),
    ('length_buckets', (512, 128)),
    ('length_buckets', (128, 128, 512)),
    ('length_buckets', (128, 511)),
    ('length_buckets', (128, 512)),  # rows are packed
    ('mixing', 'uniform'),
    ('rate_cap', 0),
    ('temperature', 0),
    ('temperature', float('nan')),
    ('weights', {}),
    ('weights', {'glue_sst2': -1}),
    ('weights', {'glue_sst2': 0}),
    ('weights', {'glue_sst2': '1'}),
    ('missing_train', 'ignore'),
    ('token_dir', ''),
  ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field, value):
  with pytest.raises(UserError, match=rf'data\.{field}'):
    DataConfig(**{'mixture': 'glue', field: value})


def test_a_row_must_hold_the_longest_example():
  with pytest.raises(UserError, match=r'row_length = 256.*inputs_length = 300'):
    DataConfig(mixture='glue', inputs_length=300, row_length=256)
  with pytest.raises(UserError, match=r'row_targets_length = 61.*= 62'):
    DataConfig(mixture='glue', row_targets_length=61)
  # Without packing rows are as long as examples, whatever row_length says.
  config = DataConfig(
    mixture='glue', inputs_length=300, row_length=256, pack=False
  )
  assert config.row_lengths == (300, 62)
  assert config.segments == 1


def test_row_sizes_follow_the_row_length_unless_given():
  config = DataConfig(mixture='glue', inputs_length=90, row_length=640)
  assert config.row_lengths == (640, 80)
  assert config.segments == 64
  config = DataConfig(mixture='glue', inputs_length=90, row_length=120)
  assert config.row_lengths == (120, 62)
  config = DataConfig(mixture='glue', row_targets_length=70, max_segments=3)
  assert config.row_lengths == (512, 70)
  assert config.segments == 3


def test_what_is_wrong_with_length_buckets_is_said():
  def refuse(message, buckets, **fields):
    with pytest.raises(UserError, match=message):
      DataConfig(mixture='glue', length_buckets=buckets, **fields)

  refuse('pack is True: packed rows', (128, 512))
  refuse(r'ends with 511, but data.inputs_length = 512', (128, 511), pack=False)
  refuse('expected increasing lengths', (128, 128, 512), pack=False)


def test_rows_are_as_long_as_the_last_bucket():
  config = DataConfig(
    mixture='glue', inputs_length=300, pack=False, length_buckets=[64, 320]
  )
  assert config.length_buckets == (64, 320)
  assert config.row_lengths == (320, 62)
  assert config.segments == 1


def test_a_list_of_tasks_is_kept_as_a_tuple():
  assert DataConfig(mixture=['a', 'b']).mixture == ('a', 'b')
