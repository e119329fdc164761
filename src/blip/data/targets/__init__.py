"""Forms in which a data source is written: tar shards, tables, Parquet and folders."""
