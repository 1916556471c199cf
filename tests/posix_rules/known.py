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
FTRUNCATE_OF_SET_ID = "ESTALE: with the size the kernel sends a mode, for which libfuse passes no path"
O_TRUNC_OF_SET_ID = "set-id bits stay when a user opens with O_TRUNC: the kernel leaves it to the file system"
NOSUID = "libfuse mounts with nosuid"
TWO_CLOCKS = "atime and mtime are read from the clock one after the other"
CTIME = "the commit at close sets another ctime, the directory's"
ATIME = "reading does not move atime"

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
    # modes
    "ftruncate_clears_set_ids": FTRUNCATE_OF_SET_ID,
    "o_trunc_clears_set_ids": O_TRUNC_OF_SET_ID,
    "fallocate_clears_set_ids": FALLOCATE,
    # times
    "no_times_are_now": TWO_CLOCKS,
    "ctime_after_close_is_that_of_the_last_change": CTIME,
    "fallocate_that_grows_moves_mtime_and_ctime": FALLOCATE,
    "setxattr_moves_ctime": XATTRS,
    "reading_after_a_change_moves_atime": ATIME,
    "reading_after_a_day_moves_atime": ATIME,
    "listing_moves_atime_of_the_folder": ATIME,
    # xattrs
    "setxattr_keeps_a_value": XATTRS,
    "setxattr_works_on_folders": XATTRS,
    "setxattr_by_descriptor": XATTRS,
    "setxattr_follows_symlinks": XATTRS,
    "setxattr_replaces": XATTRS,
    "xattr_create_refuses_what_exists": XATTRS,
    "xattr_replace_refuses_what_is_missing": XATTRS,
    "a_missing_attribute_is_enodata": XATTRS,
    "listxattr_has_every_name": XATTRS,
    "a_new_file_has_no_user_attributes": XATTRS,
    "names_of_attributes_may_have_any_byte": XATTRS,
    "attributes_stay_with_the_file": XATTRS,
    "attributes_are_seen_by_others_at_once": XATTRS,
    "getxattr_tells_the_size": XATTRS,
    "getxattr_into_a_short_buffer_is_refused": XATTRS,
    "listxattr_tells_the_size": XATTRS,
    "values_may_have_kilobytes": XATTRS,
    "names_of_attributes_may_have_255_bytes": XATTRS,
    "user_attributes_are_for_files_and_folders": XATTRS,
    "trusted_attributes_are_for_root": XATTRS,
    "trusted_attributes_are_not_listed_to_others": XATTRS,
    "trusted_attributes_work_on_symlinks": XATTRS,
    "security_attributes_are_for_root": XATTRS,
    "user_attributes_follow_the_mode": XATTRS,
    "user_attributes_of_a_sticky_folder_are_for_its_owner": XATTRS,
    # special_files
    "mkfifo_makes_a_fifo": SPECIAL_FILES,
    "a_fifo_joins_two_processes": SPECIAL_FILES,
    "opening_a_fifo_waits_for_the_other_end": SPECIAL_FILES,
    "opening_a_fifo_without_waiting": SPECIAL_FILES,
    "a_fifo_cannot_be_sought": SPECIAL_FILES,
    "a_fifo_can_be_renamed_and_removed": SPECIAL_FILES,
    "umask_limits_new_fifos": SPECIAL_FILES,
    "new_fifos_belong_to_who_makes_them": SPECIAL_FILES,
    "a_fifo_moves_mtime_of_its_folder": SPECIAL_FILES,
    "mknod_keeps_device_numbers": SPECIAL_FILES,
    "a_device_node_is_the_device": SPECIAL_FILES,
    "bind_makes_a_socket": SPECIAL_FILES,
    "a_socket_joins_two_processes": SPECIAL_FILES,
    "bind_refuses_a_name_that_exists": SPECIAL_FILES,
    "a_socket_that_nobody_listens_on_refuses": SPECIAL_FILES,
    # record_locks
    "a_write_lock_keeps_others_out": LOCKS,
    "read_locks_are_shared": LOCKS,
    "locks_are_for_ranges": LOCKS,
    "a_length_of_nothing_is_to_the_end": LOCKS,
    "ranges_may_count_from_place_and_end": LOCKS,
    "unlocking_a_part_splits_a_lock": LOCKS,
    "locking_again_changes_the_type": LOCKS,
    "f_getlk_tells_who_is_in_the_way": LOCKS,
    "f_getlk_does_not_tell_of_own_locks": LOCKS,
    "a_waiting_lock_is_granted_at_unlock": LOCKS,
    "a_waiting_lock_is_granted_when_the_holder_dies": LOCKS,
    "a_waiting_lock_can_be_interrupted": LOCKS,
    "two_that_wait_for_each_other_are_told": LOCKS,
    "closing_any_descriptor_lets_all_locks_go": LOCKS,
    "a_child_does_not_inherit_record_locks": LOCKS,
    "lockf_locks_from_the_offset": LOCKS,
    "record_locks_do_not_bind_reading_and_writing": LOCKS,
    "record_locks_follow_the_inode": LOCKS,
    # description_locks
    "ofd_locks_keep_other_opens_out": LOCKS,
    "ofd_locks_outlive_other_closes": LOCKS,
    "ofd_locks_are_inherited": LOCKS,
    "ofd_and_process_locks_respect_each_other": LOCKS,
    "a_waiting_ofd_lock_is_granted_at_unlock": LOCKS,
    "flock_keeps_others_out": LOCKS,
    "flock_is_shared_among_readers": LOCKS,
    "flock_needs_no_access_mode": LOCKS,
    "flock_belongs_to_the_open_file": LOCKS,
    "flock_is_inherited": LOCKS,
    "flock_waits": LOCKS,
    "flock_goes_with_a_killed_process": LOCKS,
    "flock_and_record_locks_do_not_concern_each_other": LOCKS,
    # durability
    "fsync_of_a_fifo_is_refused": SPECIAL_FILES,
    # programs
    "a_set_uid_program_has_its_owners_rights": NOSUID,
    "a_set_gid_program_has_its_groups_rights": NOSUID,
}
