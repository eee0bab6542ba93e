from hypergrid_jax import errors


def test_the_nearest_names_are_given_with_their_own_letters():
  known = ['Adafactor', 'AdamW', 'train', 'T5Config']
  assert errors.closest('adamw', known) == " Did you mean 'AdamW'?"
  assert errors.closest('TRIAN', known) == " Did you mean 'train'?"
  assert errors.closest('t5confg', iter(known)) == " Did you mean 'T5Config'?"
  assert errors.closest('x', known) == ''
