"""Frames of a `CVAT for video 1.1` export: the shapes of all tracks in each frame.

CVAT lists a shape for every frame in which the object is visible, interpolated ones included (`keyframe="0"`), and
`outside="1"` where it leaves. Files of other tools may contain only key frames, which CVAT completes when it imports
them. The same is done here: boxes and ellipses are interpolated linearly, and after its last shape an object stays in
place. CVAT's interpolation of polygons matches their corners and is not reproduced, so such frames are an error.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat_xml import (
    Attributes,
    XmlHead,
    XmlImage,
    XmlShape,
    XmlTrack,
    read_tracks,
)
from panformer_cli.prepare.annotation_tools.plain_numbers import decimal
from panformer_cli.wording import listing, short

_FRAME = re.compile(r"frame_([0-9]{6,})\.(png|jpe?g)", re.IGNORECASE)

_LINEAR = {"box": ("xtl", "ytl", "xbr", "ybr"), "ellipse": ("cx", "cy", "rx", "ry")}
"""Shapes that CVAT interpolates linearly, and their numbers."""

_WITH_AREA = frozenset({"polygon", "mask", *_LINEAR})


def subset_of(attributes: Attributes, head: XmlHead) -> str:
    """Return the subset of an image or a track: its own in a project, else the task's, else `default`."""
    return attributes.get("subset") or head.subset or "default"


def frames_of_video(path: Path, head: XmlHead, subset: str, folders: Sequence[Path]) -> Iterator[XmlImage]:
    """Yield an image with its shapes for each frame of a subset; its name has no extension.

    A frame with shapes but without a file is also yielded, and is reported as a missing image.

    Args:
        path: The XML.
        head: Its header.
        subset: The subset.
        folders: Where its frames, such as frame_000000.PNG, may be. The first folder with frames is used.

    Raises:
        DataError: There are no frames, tracks of several tasks share them, or the shape in a frame is not known.
    """
    frames = next(filter(None, map(_frames_in, folders)), [])
    if not frames:
        raise DataError(
            f"{path} contains video tracks, but {listing(folders)} have no frames such as frame_000000.PNG; export the "
            "task with its images (`Save images`), or as `CVAT for images 1.1`"
        )
    shapes: DiskList[tuple[int, XmlShape]] = DiskList(key=lambda pair: pair[0])
    tasks, listed = set(), set(frames)
    for number, track in enumerate(read_tracks(path, head.encoding)):
        if subset_of(track.attributes, head) == subset:
            tasks.add(track.attributes.get("task_id", ""))
            for frame, shape in _shapes_in(track, frames, _name(path, track, number)):
                shapes.append((frame, shape))
                listed.add(frame)
    if len(tasks) > 1:
        raise DataError(
            f"{path} has tracks of the tasks {', '.join(sorted(tasks))} in the subset {subset}, whose frames have the "
            "same names; expected one video; export each task by itself"
        )
    height, width = head.size or (0, 0)
    for frame in sorted(listed):
        found = tuple(shapes[position][1] for position in shapes.positions(frame))
        yield XmlImage(
            {"id": str(frame), "name": f"frame_{frame:06d}", "width": str(width), "height": str(height)}, found
        )


def _frames_in(folder: Path) -> list[int]:
    """Return the sorted numbers of the frames in a folder."""
    matches = (_FRAME.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted({int(match[1]) for match in matches if match})


def _name(path: Path, track: XmlTrack, number: int) -> str:
    """Return the name of a track in errors."""
    return f"{path}: track {track.attributes.get('id', number)} ({track.attributes.get('label', '')})"


def _shapes_in(track: XmlTrack, frames: Sequence[int], where: str) -> Iterator[tuple[int, XmlShape]]:
    """Yield the number of each frame in which the object of a track is visible, and its shape there."""
    listed = sorted(((_frame_of(shape, where), shape) for shape in track.shapes), key=lambda pair: pair[0])
    own = {key: track.attributes[key] for key in ("label", "group_id") if key in track.attributes}
    for (number, shape), after in zip_longest(listed, listed[1:]):
        if after is not None and after[0] == number:
            raise DataError(f"{where} has two shapes in frame {number}; expected one; export it again")
        if shape.attributes.get("outside") == "1":
            continue
        yield number, XmlShape(shape.kind, own | shape.attributes)
        end = after[0] if after is not None else frames[-1] + 1
        between = frames[bisect_right(frames, number) : bisect_left(frames, end)]
        if not between or shape.kind not in _WITH_AREA:
            continue
        next_shape = after[1] if after is not None else shape
        if next_shape.kind != shape.kind or (shape.kind not in _LINEAR and not _is_still(shape, next_shape)):
            raise _unknown_shape(shape, between, where)
        for other in between:
            part = (other - number) / (end - number)
            yield other, XmlShape(shape.kind, own | _between(shape, next_shape, part, where))


def _frame_of(shape: XmlShape, where: str) -> int:
    text = shape.attributes.get("frame", "")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise DataError(f"{where} has a {shape.kind} in the frame {short(text)}; expected a number; export it again")
    return int(text)


def _is_still(first: XmlShape, second: XmlShape) -> bool:
    """Return whether a polygon does not move. CVAT copies no masks to other frames."""
    return first.kind == "polygon" and first.attributes.get("points") == second.attributes.get("points")


def _unknown_shape(shape: XmlShape, between: Sequence[int], where: str) -> DataError:
    frames = f"frame {between[0]}" if len(between) == 1 else f"frames {between[0]} to {between[-1]}"
    return DataError(
        f"{where} has no shape in {frames}, after a key frame; only boxes and ellipses are interpolated, not a "
        f"{shape.kind}; export the task from CVAT as `CVAT for images 1.1`, which lists the shapes of every frame, or "
        "make each of these frames a key frame"
    )


def _between(first: XmlShape, second: XmlShape, part: float, where: str) -> Attributes:
    """Return the attributes of a shape between two others; `part` is 0 at the first and 1 at the second."""
    try:
        numbers = {
            key: (1 - part) * decimal(first.attributes[key]) + part * decimal(second.attributes[key])
            for key in _LINEAR.get(first.kind, ())
        }
        start, end = (decimal(shape.attributes.get("rotation", "0")) for shape in (first, second))
    except (KeyError, ValueError) as error:
        raise DataError(f"{where} has a {first.kind} with missing or invalid numbers; export it again") from error
    if first.kind in _LINEAR:
        turn = (end - start + 180) % 360 - 180  # the shorter way
        numbers["rotation"] = (start + part * turn) % 360
    return first.attributes | {key: repr(value) for key, value in numbers.items()}
