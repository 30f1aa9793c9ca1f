"""Entries that another process reads from the files of an open log: exactly those of the plan, or an error."""

import pytest
from compaction_rig import Node, filled, states
from wal_rig import DIRECTORY

from cluster.raft.messages import Entry
from cluster.storage.errors import UnreadablePiece
from cluster.storage.pieces import Piece, read_pieces


def test_pieces_are_few_and_exact():
    node = filled()
    pieces = node.wal.pieces(1, node.last + 1)
    assert len(pieces) <= len(node.rig.segments()) + 1
    assert [piece.first for piece in pieces[1:]] == [piece.last + 1 for piece in pieces[:-1]]
    assert (pieces[0].first, pieces[-1].last) == (1, node.last)
    assert node.wal.pieces(7, 7) == []


def test_entries_that_were_truncated_and_replaced_are_not_read():
    node = Node()
    node.write(5)
    node.write(3, term=2, truncate_from=3)
    node.write(2)
    node.write(1, term=3, truncate_from=7)
    node.check()
    assert [entry.term for entry in node.by_pieces(1, 8)] == [1, 1, 2, 2, 2, 2, 3]


def test_a_plan_that_is_off_by_one_is_not_read():
    node = filled()
    files = node.rig.disk.mount(77)
    pieces = node.wal.pieces(2, node.last + 1)
    for position, piece in enumerate(pieces):
        wrong = [
            piece._replace(offset=piece.offset + 8),
            piece._replace(first=piece.first + 1) if position else piece._replace(first=piece.first + 100),
            piece._replace(last=piece.last + 1),
            piece._replace(segment=piece.segment + 1),
        ]
        if position < len(pieces) - 1:
            wrong.append(piece._replace(last=piece.last - 1))
        for planted in wrong:
            with pytest.raises(UnreadablePiece):
                list(read_pieces(files, DIRECTORY, [*pieces[:position], planted, *pieces[position + 1 :]]))


def test_a_piece_of_a_segment_that_left_cannot_be_read():
    node = filled()
    pieces = node.wal.pieces(1, 31)
    node.wal.compact(30)
    node.settle()
    with pytest.raises(UnreadablePiece, match="missing"):
        list(read_pieces(node.rig.disk.mount(77), DIRECTORY, pieces))


def test_a_flipped_bit_in_any_byte_of_a_piece_is_found():
    node = Node()
    node.write(3, size=30)
    node.write(2, size=9)
    path = node.rig.segment()
    pieces = node.wal.pieces(1, 6)
    expected = node.held()
    files = node.rig.disk.mount(77)
    frames = [frame for frame in node.frames(path) if frame.runs]
    for offset in range(pieces[0].offset, frames[-1].end):
        node.rig.disk.flip_bit(path, offset, offset % 8)
        found: list[Entry] = []
        with pytest.raises(UnreadablePiece):
            for batch in read_pieces(files, DIRECTORY, pieces):
                found += batch
        assert states(found) == expected[: len(found)]
        node.rig.disk.flip_bit(path, offset, offset % 8)
    assert states([entry for batch in read_pieces(files, DIRECTORY, pieces) for entry in batch]) == expected


def test_pieces_cost_no_more_for_longer_stretches():
    node = Node()
    for _ in range(30):
        node.write(1, size=8)
    assert node.wal.pieces(3, 29) == [Piece(node.wal.pieces(3, 4)[0].segment, node.wal.pieces(3, 4)[0].offset, 3, 28)]
