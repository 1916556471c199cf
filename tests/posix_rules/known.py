"""Rules that a mount does not keep yet, each with the reason. A rule that begins to hold must leave this table."""

O_TMPFILE = "O_TMPFILE is refused: EOPNOTSUPP"
BLOCKS = "st_blocks counts holes"
SEEK_DATA = "SEEK_DATA and SEEK_HOLE see no holes: libfuse does not pass them"
FALLOCATE = "fallocate is refused: EOPNOTSUPP"

KNOWN: dict[str, str] = {
    # opening
    "o_tmpfile_has_no_name": O_TMPFILE,
    "o_tmpfile_can_be_given_a_name": O_TMPFILE,
    "o_tmpfile_with_o_excl_stays_without_a_name": O_TMPFILE,
    # sizes
    "a_hole_takes_no_blocks": BLOCKS,
    "a_grown_file_takes_no_blocks": BLOCKS,
    # holes
    "seek_data_skips_a_hole": SEEK_DATA,
    "seek_hole_finds_a_hole": SEEK_DATA,
    "seek_data_in_the_last_hole_is_refused": SEEK_DATA,
    "holes_are_found_after_close": SEEK_DATA,
    "fallocate_grows_with_zeros": FALLOCATE,
    "fallocate_takes_room": FALLOCATE,
    "fallocate_within_the_file_changes_nothing": FALLOCATE,
    "fallocate_keep_size_keeps_the_size": FALLOCATE,
    "punch_hole_reads_as_zeros": FALLOCATE,
    "punch_hole_frees_room": FALLOCATE,
    "punch_hole_beyond_the_end_changes_nothing": FALLOCATE,
    "punch_hole_moves_mtime_and_ctime": FALLOCATE,
    "zero_range_clears": FALLOCATE,
    "zero_range_beyond_the_end_grows": FALLOCATE,
    "fallocate_beyond_all_bounds_is_refused": FALLOCATE,
}
