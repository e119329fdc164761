"""The network: tensors in, tensors out. Knows no files, no names of checkpoints, no tasks."""
