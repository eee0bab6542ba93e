"""What a task's data are like: lengths, labels, repeats, warnings."""
