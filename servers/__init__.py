"""What a server machine runs: the directory, lock and file servers."""
