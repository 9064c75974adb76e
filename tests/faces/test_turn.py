"""Quarter turns: the geometry against numpy's, and how the turn is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from facegan.faces.crop import best_rotation, rotated_face, rotated_point, rotated_quad, rotated_size
from facegan.faces.detect import Face
from tests.prep.fake import face_at

SIZE = (30, 20)
TURNS = (0, 90, 180, 270)


@pytest.mark.parametrize("degrees", TURNS)
def test_points_go_where_numpy_turns_their_pixels(degrees: int) -> None:
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[3, 7] = 255
    turned = np.rot90(rgb, -degrees // 90)
    x, y = rotated_point(7.5, 3.5, degrees, *SIZE)
    assert turned[int(y), int(x)].all()
    assert rotated_size(degrees, *SIZE) == (turned.shape[1], turned.shape[0])


@pytest.mark.parametrize("degrees", TURNS)
def test_turning_back_undoes_it(degrees: int) -> None:
    face, quad = face_at(12, 9, 8), np.array([(1.5, 2), (1.5, 8), (7.5, 8), (7.5, 2)])
    back, size = (360 - degrees) % 360, rotated_size(degrees, *SIZE)
    there = rotated_face(face, degrees, *SIZE)
    assert rotated_face(there, back, *size).box == pytest.approx(face.box)
    assert np.allclose(rotated_face(there, back, *size).keypoints, face.keypoints)
    assert rotated_quad(rotated_quad(quad, degrees, *SIZE), back, *size).tolist() == quad.tolist()


class Scripted:
    """Says for each of the four views, 0, 90, 180, 270, what the test wrote; the marked corner tells which it is."""

    def __init__(self, **said: list[Face]) -> None:
        self.said = said
        self.seen: list[str] = []

    def detect(self, rgb: np.ndarray, min_score: float) -> list[Face]:
        corners = {"at0": rgb[0, 0], "at90": rgb[0, -1], "at180": rgb[-1, -1], "at270": rgb[-1, 0]}
        view = next(name for name, corner in corners.items() if corner.any())
        self.seen.append(view)
        return [face for face in self.said.get(view, []) if face.score >= min_score]

    def close(self) -> None:
        pass


def chosen(**said: list[Face]) -> tuple[list[Face], int, list[str]]:
    rgb = np.zeros((200, 300, 3), np.uint8)
    rgb[0, 0] = 255
    detector = Scripted(**said)
    faces, turn = best_rotation(rgb, detector.detect(rgb, 0.5), detector, 0.5)
    return faces, turn, detector.seen


def leaning(score: float) -> Face:
    """A face on its side whose keypoints tell so: in anatomical order, but with its eyes nearly one above the other."""
    points = ((99.0, 70.0), (101.0, 110.0), (110.0, 90.0), (80.0, 95.0), (100.0, 60.0), (100.0, 120.0))
    return Face((70.0, 60.0, 60.0, 60.0), points, score)


def test_a_sure_upright_face_takes_one_look() -> None:
    faces, turn, seen = chosen(at0=[face_at(150, 100, score=0.95)], at90=[face_at(100, 150, score=0.99)])
    assert (len(faces), turn, seen) == (1, 0, ["at0"])


def test_the_turn_with_the_best_upright_face_wins() -> None:
    upright = face_at(100, 140, score=0.88)
    faces, turn, seen = chosen(
        at0=[face_at(150, 100, score=0.7)], at90=[leaning(0.99)], at180=[], at270=[upright, leaning(0.9)]
    )
    assert (turn, seen) == (270, ["at0", "at90", "at180", "at270"])
    # 270° clockwise put the top edge on the left: x = width − y', y = x' undo it.
    assert faces[0].box == (300 - 170, 70, 60, 60)
    assert len(faces) == 2


@pytest.mark.parametrize(
    ("same", "turn"), [(["at0", "at90"], 0), (["at90", "at180", "at270"], 90), (["at180", "at270"], 180)]
)
def test_of_equals_the_smallest_turn_is_taken(same: list[str], turn: int) -> None:
    assert chosen(**{view: [face_at(100, 100, score=0.8)] for view in same})[1] == turn


def test_where_no_turn_has_an_upright_face_the_picture_stays() -> None:
    upside_down = face_at(150, 100, upside_down=True)
    faces, turn, _ = chosen(at0=[upside_down], at90=[leaning(0.9)])
    assert (faces, turn) == ([upside_down], 0)
