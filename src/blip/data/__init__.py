"""Training and evaluation data: sources of records, augmentation, samples of the tasks, batches that resume exactly."""
