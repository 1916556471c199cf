"""The rules of POSIX and Linux that programs rely on, one small function each.

A rule is a public function `rule(folder: Path)` of one of the modules that registry.py lists. It may do what it wants
in `folder`, which is its own and belongs to who runs it; its docstring states the rule and, in brackets, where that
stands: a page of POSIX.1-2017 or of the Linux manual. tests/test_posix.py runs each on a local disk, which must keep
all of them, and on a real mount; known.py lists those that the mount does not keep yet.

The package is not named posix, as that is a module of Python's own.
"""
