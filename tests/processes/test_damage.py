"""A real log that rots on its disk."""

from pathlib import Path

from cluster_rig import DEADLINE_S, launched, make_topology, running

from cluster.storage.frame import FRAME_HEADER_BYTES, Frame, parse_frame
from cluster.storage.header import FRAMES_START, decode_segment_header


def frames_of(segment: Path) -> list[Frame]:
    data = segment.read_bytes()
    header = decode_segment_header(data[:FRAMES_START]).header
    assert header is not None
    frames: list[Frame] = []
    offset = FRAMES_START
    while (frame := parse_frame(data, offset, header.salt)) is not None:
        frames.append(frame)
        offset = frame.end
    return frames


def flip_vouched(segment: Path) -> None:
    """A bit of the first frame with records, which later frames say is durable."""
    frames = frames_of(segment)
    frame = next(frame for frame in frames if frame.runs)
    assert any(later.synced_seq >= frame.seq for later in frames)
    with segment.open("r+b") as file:
        file.seek(frame.offset + FRAME_HEADER_BYTES + 3)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes((byte ^ 1,)))


def test_a_single_broker_with_a_damaged_log_exits_with_2_and_names_the_file(tmp_path):
    topology = make_topology(tmp_path, brokers=1, workers=1)
    with running(topology):
        pass
    (segment,) = tmp_path.glob("data/**/*.wal")
    flip_vouched(segment)
    for _ in range(2):      # the second start finds the file put aside, and says the same
        with launched(topology) as launch:
            output, _ = launch.communicate(timeout=DEADLINE_S)
        assert launch.returncode == 2, output
        assert f"the log is damaged ({segment.with_suffix('.damaged')})" in output
        assert segment.with_suffix(".damaged").exists()
