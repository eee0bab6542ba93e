"""What GLUE and SuperGLUE are, without TensorFlow: tasks, mixtures, splits."""
