"""Rules that a mount does not keep yet, each with the reason. A rule that begins to hold must leave this table."""

O_TMPFILE = "O_TMPFILE is refused: EOPNOTSUPP"
BLOCKS = "st_blocks counts holes"
SEEK_DATA = "SEEK_DATA and SEEK_HOLE see no holes: libfuse does not pass them"
FALLOCATE = "fallocate is refused: EOPNOTSUPP"
ORPHANS = "what has no name any more is refused by libfuse, which passes paths: ESTALE"
HARD_LINKS = "hard links are refused: EPERM"
SPECIAL_FILES = "FIFOs, sockets and devices are refused: ENOSYS"
XATTRS = "extended attributes are refused: EOPNOTSUPP"
LOCKS = "locks between programs are refused: ENOLCK"
OPEN_FOLDERS = "an open folder is listed by the path that it had: empty, or another folder's names"
DOTS = "`.` and `..` are listed with the inode number 0, which the C library leaves out"

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
    # orphans
    "an_orphan_has_no_link": ORPHANS,
    "an_orphans_ctime_tells_of_the_unlink": ORPHANS,
    "an_orphans_mode_can_be_changed": ORPHANS,
    "an_orphans_owner_can_be_changed": ORPHANS,
    "an_orphans_times_can_be_set": ORPHANS,
    "an_orphan_can_be_opened_through_proc": ORPHANS,
    "an_orphan_of_another_process_goes_on": ORPHANS,
    "an_orphan_and_its_namesake_are_two_files": ORPHANS,
    "an_orphan_can_be_locked": LOCKS,
    "an_orphan_keeps_its_extended_attributes": XATTRS,
    "a_replaced_file_goes_on": ORPHANS,
    "a_replaced_files_attributes_can_be_changed": ORPHANS,
    "a_removed_folder_has_no_link": ORPHANS,
    "a_removed_folder_is_empty": ORPHANS,
    "a_removed_working_folder_can_be_looked_at": ORPHANS,
    # links
    "link_gives_a_second_name": HARD_LINKS,
    "link_counts_the_names": HARD_LINKS,
    "link_works_across_folders": HARD_LINKS,
    "unlink_of_one_name_leaves_the_other": HARD_LINKS,
    "writes_through_one_name_are_read_through_the_other": HARD_LINKS,
    "attributes_are_those_of_all_names": HARD_LINKS,
    "link_while_open": HARD_LINKS,
    "link_keeps_an_open_file_that_loses_a_name": HARD_LINKS,
    "link_of_a_symlink_is_the_symlink": HARD_LINKS,
    "link_with_symlink_follow_is_the_target": HARD_LINKS,
    "link_of_an_open_file_through_proc": HARD_LINKS,
    "link_of_a_descriptor": HARD_LINKS,
    "link_of_special_files": SPECIAL_FILES,
    "link_and_unlink_move_ctime": HARD_LINKS,
    "link_moves_mtime_of_the_folder": HARD_LINKS,
    "rename_onto_another_name_of_the_same_file_does_nothing": HARD_LINKS,
    "rename_over_one_of_two_names": HARD_LINKS,
    "link_makes_a_lock_file": HARD_LINKS,
    "a_hundred_names": HARD_LINKS,
    # renaming
    "rename_of_an_open_folder": OPEN_FOLDERS,
    "rename_replaces_special_files": SPECIAL_FILES,
    # listing
    "listing_has_dots": DOTS,
    "listing_has_each_name_once": DOTS,
    "listing_tells_types": DOTS,
    "listing_tells_types_of_special_files": SPECIAL_FILES,
    "listing_begins_again": DOTS,
    "listing_goes_on_at_a_place": DOTS,
    "listing_of_an_open_folder_follows_rename": OPEN_FOLDERS,
}
