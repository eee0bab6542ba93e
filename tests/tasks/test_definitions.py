"""The definitions against TFDS's schemas and T5's tables; the mixtures."""

import subprocess
import sys

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.catalogue import mixtures

ALL = list(definitions.DEFINITIONS.values())


@pytest.mark.parametrize('task', ALL, ids=lambda task: task.name)
def test_fields_and_classes_are_those_of_tfds(task):
  import tensorflow as tf
  import tensorflow_datasets as tfds

  benchmark, config = task.tfds.split(':')[0].split('/')
  builder = tfds.builder_cls(benchmark)(config=config, data_dir='/nowhere')
  assert str(builder.info.version) == task.tfds.split(':')[1]
  kinds = {
    'text': (tf.string, ()),
    'texts': (tf.string, (None,)),
    'integer': (tf.int32, ()),
    'label': (tf.int64, ()),
    'score': (tf.float32, ()),
  }
  info = _flat(builder.info.features.get_tensor_info())
  found = {
    name: (tf.as_dtype(field.dtype), field.shape)
    for name, field in info.items()
  }
  assert found == {name: kinds[kind] for name, kind in task.fields.items()}
  classes = builder.builder_config.label_classes if task.classes else ()
  assert task.classes == tuple(classes)


def _flat(tree, prefix=''):
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{name}/'))
    else:
      flat[prefix + name] = value
  return flat


def test_training_sizes_are_t5s_mixing_weights():
  from t5.data import glue_utils

  glue = glue_utils.get_glue_weight_mapping()
  for task in definitions.GLUE:
    if task.name != 'glue_wnli':
      assert task.train_examples == glue[f'{task.name}_v002'], task.name
  super_glue = glue_utils.get_super_glue_weight_mapping()
  for task in definitions.SUPER_GLUE:
    name = task.name.replace('_wsc', '_wsc_v102_simple_train')
    name = name if 'v102' in name else f'{name}_v102'
    assert task.train_examples == super_glue[name], task.name


def test_groups_are_the_eight_and_eight_of_the_averages():
  groups = {task.group for task in ALL} - {None}
  glue = 'cola sst2 mrpc qqp stsb mnli qnli rte'.split()
  super_glue = 'boolq cb copa multirc record rte wic wsc'.split()
  assert groups == {f'glue/{name}' for name in glue} | {
    f'super_glue/{name}' for name in super_glue
  }


def test_tasks_without_training_share_the_training_of_another():
  shared = {t.name: t.trained_as for t in ALL if t.train_split is None}
  assert shared == {
    'glue_mnli_matched': 'glue_mnli',
    'glue_mnli_mismatched': 'glue_mnli',
    'glue_ax': 'glue_mnli',
    'super_glue_axb': 'super_glue_rte',
    'super_glue_axg': 'super_glue_rte',
  }
  assert all(t.trained_as == t.name for t in ALL if t.train_split)


def test_mixtures():
  sizes = {
    name: (len(mixture.tasks), len(mixture.trained))
    for name, mixture in mixtures.MIXTURES.items()
  }
  assert sizes == {
    'glue': (10, 8),
    'super_glue': (8, 8),
    'glue_super_glue': (18, 16),
    'glue_super_glue_wnli': (19, 17),
    'glue_super_glue_all': (22, 17),
  }
  everything = mixtures.mixture('glue_super_glue_all').tasks
  assert sorted(everything) == sorted(definitions.DEFINITIONS)


def test_a_task_is_a_mixture_with_its_own_validation_sets():
  assert mixtures.mixture('glue_mnli').tasks == (
    'glue_mnli',
    'glue_mnli_matched',
    'glue_mnli_mismatched',
  )
  assert mixtures.mixture('super_glue_rte').tasks == ('super_glue_rte',)


@pytest.mark.parametrize(
  ('look_up', 'name', 'suggestion'),
  [
    (definitions.definition, 'glue_sst', "'glue_sst2'"),
    (definitions.definition, 'superglue_boolq', "'super_glue_boolq'"),
    (mixtures.mixture, 'glue_superglue', "'glue_super_glue'"),
  ],
)
def test_unknown_names_give_the_closest_ones(look_up, name, suggestion):
  with pytest.raises(UserError, match=name) as error:
    look_up(name)
  assert suggestion in str(error.value)


def test_definitions_need_neither_seqio_nor_tensorflow():
  code = (
    'import sys\n'
    'import hypergrid_jax.tasks.catalogue.mixtures\n'
    'import hypergrid_jax.tasks.rows.sources\n'
    'heavy = {"tensorflow", "seqio", "t5", "tensorflow_datasets", "jax"}\n'
    'print(sorted(heavy & set(sys.modules)))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'
