"""The room of a volume, as statfs(2) tells it."""

BLOCK_BYTES = 4096


class Space:
    """What statfs tells, in bytes and inodes."""

    def __init__(self, total_bytes: int, free_bytes: int, inodes: int, inodes_free: int):
        self.total_bytes, self.free_bytes = total_bytes, free_bytes
        self.inodes, self.inodes_free = inodes, inodes_free
