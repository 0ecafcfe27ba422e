"""Any frames of any file equal those of a full decode, to the byte; what is no whole video is refused by name."""

import struct

import av
import numpy as np
import pytest

from tests.rows import every_row
from tests.video.video_files import (
    cut,
    decoded_whole,
    frame_number,
    numbered_frames,
    write_sound_only,
    write_video,
)
from video.datasets.containers import examine, map_frames, probe
from video.datasets.facts import COUNTED, EVEN, UNEVEN, turned

OPEN_GOP = {"bf": 3, "g": 12, "preset": "veryfast", "x264_params": "open-gop=1:scenecut=0:b-adapt=0"}
UNEVEN_TIMES = np.cumsum([0.0] + [0.05, 0.1, 0.2] * 19 + [0.1, 0.1])
FILES = {  # name of a file: how it is written, how its frames are found, whether by seeking
    "cfr.mp4": ({"g": 12}, EVEN, True),
    "ntsc.mp4": ({"fps": 29.97, "g": 12}, EVEN, True),
    "b_frames.mp4": ({"bf": 3, "g": 12, "preset": "veryfast"}, EVEN, True),
    "open_gop.mp4": (OPEN_GOP, EVEN, True),
    "open_gop.mkv": (OPEN_GOP, EVEN, True),
    "uneven.mp4": ({"times": UNEVEN_TIMES, "g": 12, "bf": 2}, UNEVEN, True),
    "uneven.mkv": ({"times": UNEVEN_TIMES, "g": 12}, UNEVEN, True),
    "rounded.mkv": ({"fps": 30, "g": 12}, EVEN, True),
    "live.mkv": ({"g": 12, "bf": 2, "muxer": {"live": "1"}}, EVEN, True),
    "fragments.mp4": ({"g": 12, "bf": 2, "muxer": {"movflags": "frag_keyframe+empty_moov"}}, EVEN, True),
    "vp9.webm": ({"g": 12, "fps": 25}, EVEN, True),
    "vp8.webm": ({"codec": "libvpx", "g": 12, "auto_alt_ref": 1, "lag_in_frames": 16}, EVEN, True),
    "xvid.avi": ({"g": 12}, EVEN, True),
    "xvid_b.avi": ({"g": 12, "bf": 2}, EVEN, False),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, EVEN, True),
    "ffv1.avi": ({"codec": "ffv1", "pix_fmt": "bgr0"}, EVEN, True),
    "h264_b.avi": ({"codec": "libx264", "bf": 2}, COUNTED, False),
    "a.gif": ({}, EVEN, True),
    "uneven.gif": ({"times": UNEVEN_TIMES}, UNEVEN, True),
    "turned.mp4": ({"rotation": 90, "g": 12}, EVEN, True),
    "grey.mkv": ({"codec": "ffv1", "pix_fmt": "gray"}, EVEN, True),
    "ten_bits.mkv": ({"codec": "ffv1", "pix_fmt": "yuv422p10le"}, EVEN, True),
    "with_sound.mp4": ({"sound": True, "g": 12}, EVEN, True),
}
COUNT = 60


def read_frames(path, facts, wanted):
    return map_frames(path, facts, wanted, np.array)


@every_row("name", FILES)
def test_any_frames_are_those_of_a_full_decode(name, tmp_path):
    coding, access, seekable = FILES[name]
    path = write_video(tmp_path / name, numbered_frames(COUNT), **coding)
    whole, facts = decoded_whole(path), probe(path)
    assert (facts.frames, facts.access, bool(facts.seekable)) == (COUNT, access, seekable)
    assert len(whole) == COUNT and [frame_number(frame) for frame in whole] == list(range(COUNT))
    rng = np.random.default_rng(0)
    for _ in range(8):
        wanted = np.sort(rng.choice(COUNT, 3, replace=False)).tolist()
        found = read_frames(path, facts, wanted)
        assert list(found) == wanted
        for number in wanted:
            np.testing.assert_array_equal(found[number], turned(whole[number], facts.turn), f"frame {number}")
    assert examine(path) == facts


@every_row("codec", ["mpeg4", "libx264"])
def test_a_container_that_calls_every_frame_a_key_frame_is_not_believed(codec, tmp_path):
    """An MP4 without its table of key frames; MPEG-4 would be decoded to wrong pictures without a word."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), codec=codec, g=12)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    whole, facts = decoded_whole(path), probe(path)
    for number, pixels in (each for start in (5, 14, 31) for each in read_frames(path, facts, [start]).items()):
        np.testing.assert_array_equal(pixels, whole[number])


def test_pictures_that_are_refreshed_bit_by_bit_are_those_of_a_full_decode(tmp_path):
    coding = {"g": 10, "x264_params": "intra-refresh=1:scenecut=0", "preset": "veryfast"}
    path = write_video(tmp_path / "a.mkv", numbered_frames(40), **coding)
    whole, facts = decoded_whole(path), probe(path)
    for number in (3, 12, 25, 38):
        np.testing.assert_array_equal(read_frames(path, facts, [number])[number], whole[number])


def test_the_open_groups_of_pictures_are_open(tmp_path):
    """Frames that follow a key frame in the file are shown before it, else the rows above would show nothing."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(COUNT), **OPEN_GOP)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    assert len(keys) == 5 and all(packets[place + 1].pts < packets[place].pts for place in keys[1:])


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(COUNT), g=12)
    facts, decoded = probe(path), []
    from video.datasets import containers

    monkeypatch.setattr(containers, "_entered", counting(containers._entered, decoded))
    read_frames(path, facts, [40, 41])
    assert len(decoded) <= 41 - 36 + 2  # from the key frame 36 on, and one that the decoder is behind


def counting(entered, seen):
    def count(*arguments):
        packets, start = entered(*arguments)
        return (seen.append(packet) or packet for packet in packets), start

    return count


@every_row(
    ("rotation", "hflip", "vflip"),
    [(0, 0, 0), (90, 0, 0), (180, 0, 0), (270, 0, 0), (0, 1, 0), (0, 0, 1), (90, 1, 0), (270, 1, 0)],
)
def test_a_file_is_turned_as_a_player_does(rotation, hflip, vflip, tmp_path):
    """Degrees are counterclockwise; the mirror is done after the turn: it is the matrix' columns that change sign."""
    path, frames = tmp_path / "a.mp4", numbered_frames(3, (32, 48))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        (stream.height, stream.width), stream.pix_fmt = frames.shape[1:3], "rgb24"
        stream.set_display_rotation(rotation, hflip=bool(hflip), vflip=bool(vflip))
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    facts = probe(path)
    shown = np.rot90(frames[2], rotation // 90)
    shown = shown[:, ::-1] if hflip else shown
    shown = shown[::-1] if vflip else shown
    assert (facts.height, facts.width) == shown.shape[:2]
    np.testing.assert_array_equal(read_frames(path, facts, [2])[2], shown)


def test_a_turn_by_half_a_right_angle_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(3), rotation=45)
    with pytest.raises(ValueError, match=r"a\.mp4: its display matrix .*; allowed: turns by 90 degrees"):
        probe(path)


def test_frames_before_an_edit_list_are_none_of_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), bf=2, g=12)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    seconds, first = struct.unpack(">Ii", data[place : place + 8])
    data[place : place + 8] = struct.pack(">Ii", seconds * 35 // 40, first + 5 * 2048)  # a frame is 2048 ticks
    path.write_bytes(data)
    whole, facts = decoded_whole(path), probe(path)
    assert [frame_number(frame) for frame in whole] == list(range(5, 40))
    assert facts.frames == 35
    for number, pixels in read_frames(path, facts, [0, 6, 7, 34]).items():
        np.testing.assert_array_equal(pixels, whole[number])


def test_time_stamps_that_begin_late_are_counted_from_the_first(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered_frames(20), times=5 + np.arange(20) / 8, g=4)
    facts = probe(path)
    assert facts.first > 0 and facts.access == EVEN and facts.rate == pytest.approx(8)
    assert [frame_number(frame) for frame in read_frames(path, facts, [0, 11, 19]).values()] == [0, 11, 19]


# what is no whole video


@every_row("name", ["a.mp4", "faststart.mp4", "a.mkv", "a.webm", "a.avi", "a.gif"])
def test_a_file_that_is_cut_off_is_refused_by_name(name, tmp_path):
    path = write_video(tmp_path / name, numbered_frames(40), **({"g": 12} if "gif" not in name else {}))
    if name.startswith("fast"):
        index_in_front(path)
    for share in (0.3, 0.6, 0.95):
        data = path.read_bytes()
        cut(path, share)
        with pytest.raises(ValueError, match=rf"^video file .*{name}: it is cut off: ") as caught:
            probe(path)
        assert "\n" not in str(caught.value)
        path.write_bytes(data)
    probe(path)


def index_in_front(path):
    """The same MP4 with its index before its frames."""
    before = path.rename(path.with_name("before.mp4"))
    with av.open(str(before)) as source, av.open(str(path), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


def test_bytes_that_are_lost_at_the_end_are_found_without_the_sizes_of_boxes(tmp_path):
    """An MP4 whose index is in front, shortened and its last box with it: the index announces more."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), g=12)
    index_in_front(path)
    data = bytearray(path.read_bytes())
    place, lost = data.index(b"mdat") - 4, 600
    data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") - lost).to_bytes(4, "big")
    path.write_bytes(data[:-lost])
    with pytest.raises(ValueError, match=r"a\.mp4: it is cut off: "):
        probe(path)


def test_damage_in_the_middle_is_found_when_all_is_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), g=12)
    with av.open(str(path)) as container:
        key = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
        place, size = key.pos, key.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    facts = probe(path)
    assert facts.frames == 40
    with pytest.raises(ValueError, match=r"video file .*a\.mp4: "):
        examine(path)
    with pytest.raises(ValueError, match=r"video file .*a\.mp4: "):
        read_frames(path, facts, [14, 15])


def write_zero_rate(path):
    """An AVI whose header says 0 frames in a second."""
    write_video(path, numbered_frames(10))
    data = bytearray(path.read_bytes())
    place = data.index(b"strh") + 8 + 24
    data[place : place + 4] = bytes(4)
    path.write_bytes(data)


def write_one_stamp(path):
    """An MP4 all of whose frames last no time."""
    write_video(path, numbered_frames(10))
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 4 + 8
    data[place + 4 : place + 8] = bytes(4)
    path.write_bytes(data)


BROKEN = {
    "sound.mp4": (write_sound_only, "it has no video stream; it holds audio"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "it is empty"),
    "text.mp4": (lambda path: path.write_text("#EXTM3U\n#EXTINF:5,\nother.mp4\n"), "FFmpeg cannot decode it"),
    "folder.mp4": (lambda path: path.mkdir(), "it is a folder"),
    "no_rate.avi": (write_zero_rate, "its header says 0 frames/s"),
    "slow.mkv": (
        lambda path: write_video(path, numbered_frames(4), times=np.arange(4) * 100),
        "its time stamps give 0.01 frames/s; allowed: 0.02 to 1000 frames/s",
    ),
    "one_stamp.mp4": (write_one_stamp, "tell a rate: 0 frames/s"),
}


@every_row("name", BROKEN)
def test_what_is_no_video_is_refused_by_name(name, tmp_path):
    write, reason = BROKEN[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"^video file .*{name}: .*{reason}"):
        probe(tmp_path / name)


def test_a_playlist_opens_no_other_file(tmp_path):
    """FFmpeg would follow it, to other files or into the network."""
    write_video(tmp_path / "other.mp4", numbered_frames(3))
    (tmp_path / "a.mkv").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/other.mp4'\n")
    with pytest.raises(ValueError, match=r"a\.mkv: FFmpeg cannot decode it"):
        probe(tmp_path / "a.mkv")


def test_frames_that_are_not_there_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(5))
    with pytest.raises(ValueError, match=r"a\.mp4: asked for frames \[4, 5\]; it has 5"):
        read_frames(path, probe(path), [4, 5])


def test_a_file_that_was_replaced_after_it_was_indexed_is_told(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    facts = probe(path)
    write_video(path, numbered_frames(10))
    with pytest.raises(ValueError, match=r"a\.mp4: frames 15 to 16 of 20 cannot be decoded"):
        read_frames(path, facts, [8, 15, 16])
    write_video(path, numbered_frames(20, (64, 64)))
    with pytest.raises(ValueError, match=r"a\.mp4: frame 8 is of another size, 64 x 64 pixels"):
        read_frames(path, facts, [8])
