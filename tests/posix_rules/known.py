"""Rules that a mount does not keep yet, each with the reason. A rule that begins to hold must leave this table."""

LOCKS = "locks between programs are refused: ENOLCK"

KNOWN: dict[str, str] = {
    # orphans
    "an_orphan_can_be_locked": LOCKS,
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
}
