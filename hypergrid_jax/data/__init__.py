"""Text to tokens once, tokens to rows in every step.

`tokens` tokenises a split through its seqio task and keeps it on disk;
`packing` puts examples into rows; `sampling` decides which rows are in step n;
`loader` builds the arrays. Only building a token store needs TensorFlow.
"""
