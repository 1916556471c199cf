"""Reads that were sent after a write and answered before it."""

import random

from dfsfuse.drivers.fuse_late_reads import LateReads, Read


def test_reads_sent_before_the_write_do_not_matter():
    """Goal: the kernel had their pages when it took what was written into them."""
    reads = LateReads()
    reads.begin(Read(2, 0, 8192))
    reads.begin(Read(6, 8192, 12288))
    assert reads.of(8, 0, 12288) is None


def test_reads_sent_after_the_write():
    """Goal: what they share with it, and nothing else."""
    reads = LateReads()
    reads.begin(Read(10, 4096, 8192))
    assert reads.of(8, 0, 4096) is None
    assert reads.of(8, 5000, 5008) == (5000, 5008)
    assert reads.of(8, 0, 100_000) == (4096, 8192)
    assert reads.of(8, 8192, 9000) is None


def test_none_is_missed_however_many_there_were():
    """Goal: of any number of reads, in any order, each that matters is within the answer, and few are kept."""
    for seed in range(300):
        choose, reads, all_of_them = random.Random(seed), LateReads(), []
        for unique in choose.sample(range(1000), choose.choice((1, 5, 400))):
            start = choose.randrange(100)
            all_of_them.append(Read(unique, start, start + choose.randrange(1, 20)))
            reads.begin(all_of_them[-1])
        unique, start = choose.randrange(1000), choose.randrange(100)
        end = start + choose.randrange(1, 30)
        late = reads.of(unique, start, end)
        for read in all_of_them:
            if read.unique > unique and read.start < end and start < read.end:
                assert late is not None
                assert late[0] <= max(start, read.start)
                assert late[1] >= min(end, read.end)
        assert late is None or start <= late[0] < late[1] <= end
        assert len(reads._reads) <= 128
