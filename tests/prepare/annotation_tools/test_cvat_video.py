"""`prepare-data cvat`: tracks of `CVAT for video 1.1`, with the frames worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import Cvat, open_cvat
from tests.prepare.annotation_tools.converted import areas, converted_train

SIZE = "<original_size><width>40</width><height>30</height></original_size>"


def write(
    root: Path, *tracks: str, frames: int = 3, folder: str = "images", size: str = SIZE, suffix: str = "PNG"
) -> None:
    """Write tracks and black frames of 40 x 30."""
    (root / folder).mkdir(parents=True)
    for number in range(frames):
        image = Image.new("RGB", (40, 30), (number, 0, 0))
        image.save(root / folder / f"frame_{number:06d}.{suffix}", "PNG" if suffix == "PNG" else "JPEG")
    labels = "<labels><label><name>car</name></label><label><name>bus</name></label></labels>"
    meta = f"<meta><task><mode>interpolation</mode>{labels}{size}</task></meta>"
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{meta}{''.join(tracks)}</annotations>")


def track(*shapes: str, label: str = "car", number: int = 0, more: str = "") -> str:
    return f'<track id="{number}" label="{label}" source="manual" {more}>{"".join(shapes)}</track>'


def box(frame: int, x: float, y: float, outside: int = 0, keyframe: int = 1, more: str = "") -> str:
    """A box of 10 x 5 pixels."""
    place = f'xtl="{x}" ytl="{y}" xbr="{x + 10}" ybr="{y + 5}"'
    state = f'outside="{outside}" occluded="0" keyframe="{keyframe}"'
    return f'<box frame="{frame}" {state} {place} z_order="0" {more}></box>'


def polygon(frame: int, x: float, outside: int = 0) -> str:
    """A rectangle of 4 x 4 pixels."""
    points = f"{x},0;{x + 4},0;{x + 4},4;{x},4"
    return f'<polygon frame="{frame}" outside="{outside}" keyframe="1" points="{points}" z_order="0"></polygon>'


def mask(frame: int) -> str:
    return f'<mask frame="{frame}" outside="0" rle="0, 4" left="0" top="0" width="2" height="2" z_order="0"></mask>'


def opened(root: Path) -> Cvat:
    return open_cvat(root, None, (), "last")


def in_frames(root: Path) -> list[list[tuple[float, ...]]]:
    """Return the boxes of the segments in each frame."""
    data = converted_train(opened(root))
    return [[box for _, _, box in areas(data, frame)] for frame in range(len(data))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def test_every_frame_as_cvat_writes_them(root: Path) -> None:
    """All visible frames are listed; an object may leave and return."""
    car = track(box(0, 2, 3), box(1, 4, 3, keyframe=0), box(2, 4, 3, outside=1), box(3, 9, 9), box(4, 9, 9, outside=1))
    bus = track(polygon(1, 30), polygon(2, 31), polygon(3, 31, outside=1), label="bus", number=1)
    write(root, car, bus, frames=5)
    assert in_frames(root) == [
        [(2, 3, 10, 5)],
        [(4, 3, 10, 5), (30, 0, 4, 4)],
        [(31, 0, 4, 4)],
        [(9, 9, 10, 5)],
        [],
    ]
    images = list(opened(root).images("train"))
    assert [(image.id, image.file_name) for image in images] == [(n, f"frame_{n:06d}.PNG") for n in range(5)]


def test_boxes_between_key_frames_move_evenly(root: Path) -> None:
    write(root, track(box(0, 0, 0), box(4, 8, 20), box(5, 8, 20, outside=1)), frames=6)
    assert in_frames(root) == [[(2 * n, 5 * n, 10, 5)] for n in range(5)] + [[]]


def test_a_box_turns_the_shorter_way(root: Path) -> None:
    """From 350 to 10 degrees, the middle is 0."""
    write(root, track(box(0, 8, 8, more='rotation="350"'), box(2, 8, 8, more='rotation="10"')))
    first, middle, last = in_frames(root)
    assert middle == [(8, 8, 10, 5)] and first[0][3] > 5 and last[0][3] > 5


def test_an_ellipse_between_key_frames(root: Path) -> None:
    rows = [
        f'<ellipse frame="{n}" outside="0" cx="{x}" cy="10" rx="{r}" ry="4" z_order="0"></ellipse>'
        for n, x, r in ((0, 10, 4), (2, 20, 8))
    ]
    write(root, track(*rows))
    assert in_frames(root)[1] == [(9, 6, 12, 8)]  # center 15, radius 6


def test_an_object_stays_after_its_last_shape(root: Path) -> None:
    """As in CVAT, unless it is outside; frames before the first shape do not have it."""
    write(root, track(box(1, 2, 3)), track(polygon(0, 30), polygon(2, 30)), frames=4)
    still = (30, 0, 4, 4)
    assert in_frames(root) == [[still], [(2, 3, 10, 5), still], [(2, 3, 10, 5), still], [(2, 3, 10, 5), still]]


def test_frames_without_an_image_are_not_needed(root: Path) -> None:
    """Deleted frames, and frames left out by the frame step."""
    write(root, track(polygon(0, 0), polygon(2, 8), polygon(3, 8, outside=1)))
    (root / "images/frame_000001.PNG").unlink()
    assert in_frames(root) == [[(0, 0, 4, 4)], [(8, 0, 4, 4)]]


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        (
            [track(polygon(0, 0), polygon(2, 8))],
            r"track 0 \(car\) has no shape in frame 1, after a key frame; only boxes",
        ),
        ([track(mask(0), number=7)], r"track 7 \(car\) has no shape in frames 1 to 2.* not a mask; export the task"),
        ([track(box(0, 0, 0), polygon(2, 8))], "has no shape in frame 1"),
        ([track(box(0, 0, 0), box(0, 1, 1))], "has two shapes in frame 0"),
        ([track(box(0, 0, 0).replace('frame="0" ', ""))], "has a box in the frame ''; expected a number"),
        ([track(box(0, 0, 0), box(2, 0, 0).replace('xtl="0"', ""))], "has a box with missing or invalid numbers"),
        (
            [track(box(0, 0, 0), more='task_id="1"'), track(box(0, 0, 0), more='task_id="2"')],
            "has tracks of the tasks 1, 2 in the subset default, whose frames have the same names",
        ),
    ],
)
def test_what_is_not_known_is_refused(root: Path, tracks: list[str], message: str) -> None:
    write(root, *tracks)
    with pytest.raises(DataError, match=rf"annotations.xml.*{message}"):
        opened(root).images("train")


def test_a_track_without_shapes(root: Path) -> None:
    write(root, track(), track(box(0, 2, 3), box(1, 2, 3, outside=1)))
    assert in_frames(root) == [[(2, 3, 10, 5)], [], []]


def test_a_video_without_frames(root: Path) -> None:
    """Images of a task that was not a video have their own names, which the XML does not list."""
    write(root, track(box(0, 0, 0)), frames=0)
    Image.new("RGB", (40, 30)).save(root / "images/street.jpg")
    with pytest.raises(DataError, match=r"no frames such as frame_000000.PNG; export the task with its images"):
        opened(root).images("train")


@pytest.mark.parametrize(("folder", "suffix"), [("images/default", "PNG"), ("images", "jpg"), ("", "png")])
def test_where_frames_may_be(root: Path, folder: str, suffix: str) -> None:
    write(root, track(box(0, 2, 3), box(1, 2, 3, outside=1)), folder=folder, suffix=suffix.replace("png", "PNG"))
    assert in_frames(root) == [[(2, 3, 10, 5)], [], []]


def test_the_size_is_checked_if_it_is_listed(root: Path) -> None:
    write(root, track(box(0, 2, 3)), size=SIZE.replace("30", "31"))
    with pytest.raises(DataError, match="is for an image of 40x31"):
        converted_train(opened(root))


def test_a_file_without_a_size(root: Path) -> None:
    write(root, track(box(0, 2, 3), box(1, 2, 3, outside=1)), size="")
    assert in_frames(root)[0] == [(2, 3, 10, 5)]


def test_groups_of_tracks_are_one_object(root: Path) -> None:
    parts = [track(box(0, x, 0), box(1, x, 0, outside=1), more='group_id="3"', number=x) for x in (0, 20)]
    write(root, *parts)
    assert in_frames(root)[0] == [(0, 0, 30, 5)]


def test_shapes_without_a_frame_are_missing_images(root: Path) -> None:
    """Frames are numbered from the start of the video and in its step: 10, 13, 16."""
    write(root, track(box(1, 2, 3), box(2, 2, 3), box(7, 2, 3), box(8, 2, 3, outside=1)))
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used(.|\n)*frame_000007 is missing"):
        converted_train(opened(root))


def test_key_points_of_skeletons_are_tracks_in_a_track(root: Path) -> None:
    points = '<points frame="0" outside="0" keyframe="1" points="1,1" z_order="0"></points>'
    skeleton = '<skeleton frame="0" outside="0" keyframe="1" points="1,1" z_order="0"></skeleton>'
    body = track(skeleton, track(points, label="1"), label="body")
    write(root, body, track(box(0, 2, 3), box(1, 2, 3, outside=1)))
    assert in_frames(root) == [[(2, 3, 10, 5)], [], []]


def test_lines_of_tracks_are_left_out(root: Path) -> None:
    line = '<polyline frame="0" outside="0" points="1,1;2,2" z_order="0"></polyline>'
    write(root, track(line), track(box(0, 2, 3), box(1, 2, 3, outside=1)))
    assert in_frames(root) == [[(2, 3, 10, 5)], [], []]
