"""Folders of this machine that their owner alone may enter: homes, and the clients' below them."""

import os
from pathlib import Path

_MODE = 0o700


def make_private_folder(path: Path) -> None:
    """Make a folder, and those on the way to it that are missing, for their owner alone whatever the umask is. A folder
    that is there stays as it is. Raises OSError; FileExistsError where something else is there."""
    try:
        os.mkdir(path, _MODE)
    except FileNotFoundError:
        if path.parent.is_dir():
            # Nobody makes folders there, as in /proc.
            raise
        make_private_folder(path.parent)
        make_private_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        # A umask may take the owner's own rights.
        os.chmod(path, _MODE)
