"""The write-ahead log: records, frames, segments and recovery, over the Files port. Begin with `wal`."""
