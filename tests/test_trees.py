import collections

import jax
import jax.numpy as jnp
import pytest

from hypergrid_jax import trees

Pair = collections.namedtuple('Pair', ['first', 'second'])
TREE = {'b': {'y': 1, 'x': 2}, 'a': {'z': {'w': 3}}, 'c': 4}


def test_paths_join_keys_fields_and_indices():
  tree = {'m': (Pair(5, [6, 7]),), 'k': {'v': 8}}
  assert trees.flatten(tree) == {
    'k/v': 8,
    'm/0/first': 5,
    'm/0/second/0': 6,
    'm/0/second/1': 7,
  }


def test_flatten_has_the_order_of_jax_leaves():
  assert list(trees.flatten(TREE).values()) == jax.tree.leaves(TREE)


def test_unflatten_inverts_flatten():
  assert trees.unflatten(trees.flatten(TREE)) == TREE


def test_axes_are_leaves_and_other_tuples_are_not():
  axes = {'w': ('embed', 'mlp'), 'scalar': (), 'pair': ({'v': ('vocab',)}, {})}
  assert trees.flatten(axes, is_leaf=trees.is_axes) == {
    'pair/0/v': ('vocab',),
    'scalar': (),
    'w': ('embed', 'mlp'),
  }


def test_map_with_path_gives_each_leaf_its_own_name():
  named = trees.map_with_path(
    lambda path, x, y: f'{path}={x}{y}', TREE, jax.tree.map(str, TREE)
  )
  assert named['a']['z']['w'] == 'a/z/w=33'
  assert named['b'] == {'y': 'b/y=11', 'x': 'b/x=22'}


def test_select_keeps_only_the_named_leaves():
  assert trees.select(TREE, {'a/z/w', 'b/x', 'absent'}) == {
    'a': {'z': {'w': 3}},
    'b': {'x': 2},
  }


@pytest.mark.parametrize('paths', [('a', 'a/b'), ('a/b', 'a'), ('a/b/c', 'a')])
def test_a_leaf_cannot_be_a_parent(paths):
  with pytest.raises(ValueError, match="'a' is a leaf"):
    trees.unflatten(dict.fromkeys(paths, 0))


def test_a_separator_in_a_key_is_refused():
  with pytest.raises(ValueError, match='separator'):
    trees.flatten({'a/b': {'c': 1}})


def test_differences_name_both_sides_shapes_and_dtypes():
  saved = {'a': jnp.zeros((2, 3)), 'b': jnp.zeros(4), 'gone': jnp.zeros(1)}
  wanted = {
    'a': jnp.zeros((2, 5)),
    'b': jnp.zeros(4, jnp.bfloat16),
    'new': jnp.zeros(1),
  }
  lines = trees.differences(trees.layout(saved), trees.layout(wanted))
  assert lines == [
    '1 missing: new',
    '1 unexpected: gone',
    '1 of another dtype: b (float32 instead of bfloat16)',
    '1 of another shape: a ([2, 3] instead of [2, 5])',
  ]
  assert not trees.differences(trees.layout(saved), trees.layout(saved))


def test_many_differences_are_counted_but_not_all_named():
  saved = {f'p{i}': ['float32', []] for i in range(33)}
  (line,) = trees.differences(saved, {})
  assert line.startswith('33 unexpected: p0, p1,')
  assert line.endswith('p19, and 13 more')
