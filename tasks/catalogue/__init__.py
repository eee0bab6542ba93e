"""What is known of GLUE and SuperGLUE without TensorFlow: tasks, mixtures, protocols."""
