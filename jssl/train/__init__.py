"""Training: the state, the step, the loop, the writer, the command."""
