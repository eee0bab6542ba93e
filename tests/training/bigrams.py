"""A model of two lines, for tests of the training step alone."""

import jax


class Bigrams:
  """logits[b, l] = table[input token], plus noise when dropout is on."""

  def __init__(self, num_tasks):
    self.num_tasks = num_tasks

  def bind(self, params):
    def call(batch, *, dropout_key=None):
      logits = params['table'][batch.decoder_input_tokens]
      if dropout_key is not None and 'noise' in params:
        noise = jax.random.normal(dropout_key, logits.shape, logits.dtype)
        logits = logits + params['noise'] * noise
      return logits

    return call
