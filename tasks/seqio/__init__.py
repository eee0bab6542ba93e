"""Tasks as seqio has them; importing these modules loads TensorFlow."""
