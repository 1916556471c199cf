"""dfsfuse beside other file systems (README.md here)."""
