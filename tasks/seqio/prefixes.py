"""The name before a task's text, and how it is left out.

T5 writes the name of a data set before each of its texts, "cola sentence: ...".
A model that is told the task by its id needs no name: HyperFormer's adapters
and generators are trained without it, its plain T5 with it (Karimi Mahabadi et
al. 2021, the authors' configurations). Imports TensorFlow.
"""

import tensorflow as tf

from hypergrid_jax.tasks.task_definition import TaskDefinition

# Whose texts begin with one word that names the data set.
_NAMED = ('glue', 'super_glue')
_FIRST_WORD = r'\A\S+ '


def has_prefix(task: TaskDefinition) -> bool:
  """Whether a task's text begins with a name that can be left out.

  The text of a user's own task is the user's: what is written there stays.
  """
  return task.benchmark in _NAMED


def leave_out(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Removes the first word of every example's `inputs`, a scalar string."""

  def without(example):
    text = tf.strings.regex_replace(
      example['inputs'], _FIRST_WORD, '', replace_global=False
    )
    return {**example, 'inputs': text}

  return dataset.map(without, num_parallel_calls=tf.data.AUTOTUNE)
