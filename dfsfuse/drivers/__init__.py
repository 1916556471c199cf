"""Adapters from a FUSE interface to `dfsfuse.filesystem`: they translate, and decide nothing."""
