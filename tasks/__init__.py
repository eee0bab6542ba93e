"""The GLUE and SuperGLUE tasks, installed as `hypergrid_jax.tasks`.

`definitions` and `mixtures` say which tasks exist and need nothing but Python;
`registry` makes seqio tasks of them and loads TensorFlow. `task_files` adds
tasks of a user's own.
"""
