"""transformers' T5 in a process of its own; imports nothing of ours.

Reads requests from the standard input, one JSON object a line, and answers each
with one line: `versions`, `model`, `batches`, then `train` and `generate`,
which do their work once and answer with the milliseconds it took.
"""

import copy
import json
import platform
import sys
import time

import numpy as np
import torch
import transformers

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
IGNORED = -100  # a target that transformers leaves out of the loss
LEARNING_RATE = 1e-4


class T5:
  """A model, its optimiser, and the batches it was given."""

  def __init__(self):
    self.found = {}

  def versions(self, request):
    """Of what matters here."""
    del request
    return {
      'torch': torch.__version__,
      'transformers': transformers.__version__,
      'torch_python': platform.python_version(),
      'torch_threads': str(torch.get_num_threads()),
    }

  def model(self, request):
    """Random weights; in low precision they train by autocast, as users do.

    They generate with the weights themselves in that precision.
    """
    torch.manual_seed(0)
    config = transformers.T5Config(**request['config'])
    self.t5 = transformers.T5ForConditionalGeneration(config).to(DEVICE)
    self.dtype = getattr(torch, request['dtype'])
    self.optimizer = torch.optim.AdamW(
      self.t5.parameters(), LEARNING_RATE, fused=True
    )
    self.writer = self.t5
    if self.dtype != torch.float32:
      self.writer = copy.deepcopy(self.t5).to(self.dtype)
    self.forward = self.t5
    if request['compiled']:
      self.forward = torch.compile(self.t5)
    return sum(p.numel() for p in self.t5.parameters())

  def batches(self, request):
    """Groups examples by length as transformers' Trainer does, and pads."""
    arrays = np.load(request['path'])
    sides = []
    for key in ('inputs', 'targets'):
      ends = np.cumsum(arrays[f'{key}_lengths'])[:-1]
      sides.append(np.split(arrays[key], ends))
    order = grouped(
      [len(row) for row in sides[0]], request['size'], request['mega']
    )
    self.found[request['name']] = made = []
    facts = []
    for first in range(0, len(order), request['size']):
      chosen = order[first : first + request['size']]
      inputs, targets = ([side[i] for i in chosen] for side in sides)
      made.append(
        {
          'input_ids': padded(inputs, 0),
          'attention_mask': (padded(inputs, 0) > 0).long(),
          'labels': padded(targets, IGNORED),
        }
      )
      facts.append(
        {
          'examples': len(chosen),
          'tokens': sum(map(len, inputs)) + sum(map(len, targets)),
          'positions': made[-1]['input_ids'].numel()
          + made[-1]['labels'].numel(),
        }
      )
    return facts

  def train(self, request):
    """One step of AdamW."""
    batch = self.found[request['name']][request['number']]

    def step():
      self.optimizer.zero_grad(set_to_none=True)
      with torch.autocast(
        DEVICE.type, self.dtype, enabled=self.dtype != torch.float32
      ):
        loss = self.forward(**batch).loss
      loss.backward()
      self.optimizer.step()
      return loss.item()

    self.t5.train()
    return timed(step)

  def generate(self, request):
    """Greedy, until all rows have ended or so many tokens are there."""
    batch = self.found[request['name']][request['number']]
    self.writer.eval()
    with torch.inference_mode():
      return timed(
        lambda: self.writer.generate(
          input_ids=batch['input_ids'],
          attention_mask=batch['attention_mask'],
          max_new_tokens=request['new_tokens'],
          min_new_tokens=request['new_tokens'],
          do_sample=False,
          num_beams=1,
        )
      )


def grouped(lengths, size, mega):
  """Indices in random order, sorted by length within every `mega` batches.

  As `group_by_length` of transformers' Trainer: a batch has examples of about
  one length.
  """
  order = torch.randperm(
    len(lengths), generator=torch.Generator().manual_seed(0)
  ).tolist()
  stretch = mega * size
  return [
    index
    for first in range(0, len(order), stretch)
    for index in sorted(
      order[first : first + stretch], key=lambda i: lengths[i], reverse=True
    )
  ]


def padded(rows, fill):
  """[B, L], as long as the longest row."""
  return torch.nn.utils.rnn.pad_sequence(
    [torch.from_numpy(row) for row in rows],
    batch_first=True,
    padding_value=fill,
  ).to(DEVICE)


def timed(function):
  """Milliseconds that a function takes, and those of its threads."""
  wall, processor = time.perf_counter(), time.process_time()
  function()
  if DEVICE.type == 'cuda':
    torch.cuda.synchronize()
  return {
    'wall': 1e3 * (time.perf_counter() - wall),
    'processor': 1e3 * (time.process_time() - processor),
  }


def main():
  """Answers until the input ends."""
  transformers.utils.logging.set_verbosity_error()
  t5 = T5()
  for line in sys.stdin:
    request = json.loads(line)
    answer = getattr(t5, request['do'])(request)
    sys.stdout.write(json.dumps(answer) + '\n')
    sys.stdout.flush()


if __name__ == '__main__':
  main()
