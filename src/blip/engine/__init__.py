"""Work on the shards of a data set: one output file per shard, in one process or on a cluster, resumable."""
