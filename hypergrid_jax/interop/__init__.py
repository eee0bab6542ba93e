"""T5 weights of other programs, in and out; and changes to trained models.

names         which of their tensors is which of our parameters: one table
hf_config     config.json
hf_files      directories with safetensors files
mesh_tf       T5's original TensorFlow checkpoints
t5x           T5X's checkpoints
locations     a path, a bucket or a model of the hub
architectures sizes from shapes; the published sizes
importing     all of these into a checkpoint
exporting     a checkpoint into a directory for Hugging Face transformers
editing       tasks added and removed, checkpoints averaged
"""
