"""Rules that a mount does not keep yet, each with the reason. A rule that begins to hold must leave this table."""

KNOWN: dict[str, str] = {}
