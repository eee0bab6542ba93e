"""The t5 package's own tasks, and how examples are read in these tests."""

import seqio
import t5.data.tasks  # noqa: F401  registers the tasks

LENGTHS = {'inputs': 400, 'targets': 9}


def t5_task(task, split):
  """Returns the t5 package's task for a task and split of ours."""
  name = f'{task.name}_{"v002" if task.benchmark == "glue" else "v102"}'
  if task.name == 'super_glue_wsc':
    name += '_simple_train' if split == 'train' else '_simple_eval'
  return seqio.TaskRegistry.get(name)


def examples(task, split, lengths=LENGTHS):
  dataset = task.get_dataset(
    lengths, split=split, shuffle=False, use_cached=False
  )
  return list(dataset.as_numpy_iterator())
