"""The network: tensors in, tensors out. Independent of files, checkpoint names and tasks."""
