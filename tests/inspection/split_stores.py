"""Token stores of a few texts, in a vocabulary that lacks some characters."""

from hypergrid_jax.data import tokens


class Letters:
  """One id per character, but '{', '}' and '~' are unknown and newlines spaces.

  A tilde after an n is known: the two are one character.
  """

  unk_id = 2
  eos_id = 1
  spec = 'letters'

  def encode(self, text):
    text = text.replace('\n', ' ').replace('n~', 'ñ').strip(' ')
    return [2 if c in '{}~' else ord(c) for c in text]

  def decode(self, ids):
    return ''.join('?' if i == 2 else chr(i) for i in ids if i != 1)


def store(split, rows, *, limit=40):
  """A store of (inputs, targets) texts, cut at `limit` tokens."""
  letters = Letters()
  ids = [[[*letters.encode(t)[: limit - 1], 1] for t in row] for row in rows]
  made = tokens.memory_store(
    'mine',
    split,
    [inputs for inputs, _ in ids],
    [targets for _, targets in ids],
    [
      {'inputs_pretokenized': inputs, 'targets_pretokenized': targets}
      for inputs, targets in rows
    ],
  )
  made.counts = {
    f'cut_{side}': sum(len(letters.encode(r[i])) + 1 > limit for r in rows)
    for i, side in enumerate(('inputs', 'targets'))
  }
  return made
