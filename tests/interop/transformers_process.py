"""Runs transformers' T5 in a process of its own; imports nothing of ours.

  python -m tests.interop.transformers_process JOBS.json

The file holds a list of jobs, each an object with `do` and its arguments:

  make      saves a T5 with random weights: out, config, head, dtype, shard
  run       loads a directory and computes: path, out; writes to `out`, as npz,
            logits, greedy tokens and everything that loading has said
  tokenize  path, out, texts; writes the ids as JSON
"""

import io
import json
import logging
import sys
import warnings

import numpy as np
import torch
import transformers

NEW_TOKENS = 12
INPUT_LENGTHS, TARGET_LENGTH, FIRST_ID = (13, 7, 4), 6, 2


def make(job):
  """Random weights, of a size that makes logits differ between tokens."""
  torch.manual_seed(job['seed'])
  config = transformers.T5Config(**job['config'], decoder_start_token_id=0)
  model = transformers.T5ForConditionalGeneration(config)
  for name, value in model.named_parameters():
    if 'layer_norm' in name:
      torch.nn.init.uniform_(value, 0.5, 1.5)
    elif 'relative' in name:
      torch.nn.init.normal_(value)
    elif 'block' in name:  # else the layers hardly change what is embedded
      value.data.mul_(1.4)
  if job.get('head'):
    shape = model.shared.weight.shape
    model.lm_head.weight = torch.nn.Parameter(
      torch.randn(shape) * shape[1] ** -0.5
    )
  model = model.to(getattr(torch, job.get('dtype', 'float32')))
  model.save_pretrained(job['out'], max_shard_size=job.get('shard', '5GB'))


def run(job):
  """Loads strictly, and computes on rows that depend on the sizes alone."""
  said = io.StringIO()
  handler = logging.StreamHandler(said)
  logger = transformers.utils.logging.get_logger('transformers')
  logger.addHandler(handler)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(
      job['path'], output_loading_info=True, dtype=torch.float32
    )
  logger.removeHandler(handler)
  tokens, mask, targets = rows(job.get('ids', model.config.vocab_size))
  model.eval()
  with torch.no_grad():
    output = model(
      input_ids=torch.from_numpy(tokens),
      attention_mask=torch.from_numpy(mask),
      decoder_input_ids=torch.from_numpy(targets),
      use_cache=False,
    )
    written = model.generate(
      input_ids=torch.from_numpy(tokens),
      attention_mask=torch.from_numpy(mask),
      max_new_tokens=NEW_TOKENS,
      do_sample=False,
      num_beams=1,
      use_cache=False,  # theirs fails with more decoder than encoder layers
    )
  report = {
    'said': said.getvalue() + '\n'.join(str(w.message) for w in caught),
    **{name: sorted(map(str, found)) for name, found in info.items()},
  }
  np.savez(
    job['out'],
    logits=output.logits.numpy(),
    written=written.numpy(),
    report=json.dumps(report),
  )


def rows(ids):
  """Padded inputs, their mask, and decoder inputs that start with 0; int64."""
  rng = np.random.default_rng(ids)
  length = max(INPUT_LENGTHS)
  mask = np.arange(length) < np.array(INPUT_LENGTHS)[:, None]
  tokens = np.where(mask, rng.integers(FIRST_ID, ids, mask.shape), 0)
  targets = rng.integers(FIRST_ID, ids, (len(mask), TARGET_LENGTH))
  targets[:, 0] = 0
  return tokens, mask.astype(np.int64), targets


def tokenize(job):
  """Ids of texts, by what AutoTokenizer makes of the directory."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(job['path'])
  ids = [tokenizer(text).input_ids for text in job['texts']]
  with open(job['out'], 'w', encoding='utf-8') as file:
    json.dump({'ids': ids, 'class': type(tokenizer).__name__}, file)


if __name__ == '__main__':
  with open(sys.argv[1], encoding='utf-8') as jobs:
    for one in json.load(jobs):
      {'make': make, 'run': run, 'tokenize': tokenize}[one['do']](one)
