"""A body's mesh on the floor, shaded, its sides tinted in the colours of left and right.

Letters: F frames, J joints, V vertices, n faces.
"""

from __future__ import annotations

import numpy as np

from motion.body.posing import mesh_of, nearest_joints, pose_body
from motion.body.skeleton import Skeleton
from motion.body.smpl import BodyModel
from motion.pictures.camera import View
from motion.pictures.canvas import Canvas
from motion.pictures.figure import LEFT, RIGHT, SHADOW, draw_floor

SKIN = (0.8, 0.8, 0.82)
TINT = 0.55  # of a side's colour in that of its vertices
LIGHT = np.array([-0.45, 0.7, 0.55]) / np.linalg.norm([-0.45, 0.7, 0.55])
DARKEST = 0.35  # of the light falls on what is turned away


class MeshFigure:
    """A body model that moves as a clip's joints do; drawn as `motion.pictures.figure.Figure` draws a skeleton.

    joints  (F, J, 3) of the clip

    `distance`: of the model's joints from them, metres.
    """

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, model: BodyModel):
        pose = pose_body(joints, model)
        self.distance = pose.distance
        self.vertices, self.faces = mesh_of(pose, model)
        sides = [LEFT if joint in skeleton.left else RIGHT if joint in skeleton.right else SKIN for joint in range(22)]
        tints = np.array(SKIN) * (1 - TINT) + np.array(sides) * TINT
        self.colours = tints[nearest_joints(model)]

    def draw(self, canvas: Canvas, joints: np.ndarray, view: View, frame: int) -> None:
        """Frame `frame` of the clip over what is on the canvas: floor, path, shadow, faces from far to near."""
        draw_floor(canvas, joints[:, 0], view, frame)
        vertices = self.vertices[frame].astype(np.float64)
        points, corners = view.project(vertices, frame), vertices[self.faces]
        canvas.shade(view.project(vertices * (1.0, 0.0, 1.0), frame)[self.faces], np.array(SHADOW))
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        near = view.nearness(corners).mean(1)
        order = np.argsort(near)[view.nearness(normals)[np.argsort(near)] > 0]
        canvas.shade(points[self.faces[order]], self._shaded(normals)[self.faces[order]])

    def _shaded(self, normals: np.ndarray) -> np.ndarray:
        """Colours (V, 3) of the vertices under the light, by the mean of their faces' normals (n, 3)."""
        smooth = np.zeros_like(self.vertices[0], dtype=np.float64)
        for corner in self.faces.T:
            np.add.at(smooth, corner, normals)
        smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
        light = DARKEST + (1 - DARKEST) * np.clip(smooth @ LIGHT, 0.0, 1.0)
        return self.colours * light[:, None]
