"""dfsfuse: a distributed file system that is mounted through FUSE. This package is what a client machine runs."""

__version__ = "0.1.0"
