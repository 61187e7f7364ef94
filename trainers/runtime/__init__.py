"""What a training has whatever is trained: callbacks, whole checkpoints, lines of progress, ways of a CPU."""
