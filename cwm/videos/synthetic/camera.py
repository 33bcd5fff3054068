"""A camera that can be put anywhere in a MuJoCo scene, and textures that can be painted anew."""

from typing import Any

import numpy as np

from envs.rendering import Renderer, load

NAME = "eye"  # of the camera that the scene must have
# Not in its body's own frame: MuJoCo would then never look at a position that is set later.
BONE = '<geom name="{0}" type="capsule" size=".1 .1" pos="1 1 1" euler="9 9 9" material="{1}"/>'


class Camera:
    """Films a scene whose model and data are changed in place between pictures.

    scene: MJCF text with a fixed camera of the name above. Raises EnvError without OpenGL.
    """

    def __init__(self, scene: str) -> None:
        self._mujoco = load("mujoco")
        self.model: Any = self._mujoco.MjModel.from_xml_string(scene)
        self.data: Any = self._mujoco.MjData(self.model)
        self._renderer = Renderer(self.model, NAME, "fast")

    def paint(self, texture: str, pixels: np.ndarray) -> None:
        """Replace a texture by pixels (H, W, 3) uint8; of a cube, its six faces in a column."""
        self._renderer.paint(texture, pixels)

    def place(self, body: str, position: np.ndarray, yaw: float) -> None:
        """Put a mocap body somewhere, turned about the vertical."""
        slot = self.model.body(body).mocapid[0]
        self.data.mocap_pos[slot] = position
        self.data.mocap_quat[slot] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def lay(self, bone: str, a: np.ndarray, b: np.ndarray, radius: float) -> None:
        """Lay a capsule from a to b, in the frame of its body."""
        geom, line = self.model.geom(bone), b - a
        length = np.linalg.norm(line)
        x, y, z = line / length
        half_turn = np.array([1 + z, -y, x, 0])  # takes the z axis to the line, unless opposite
        norm = np.linalg.norm(half_turn)
        geom.pos[:], geom.size[:2] = (a + b) / 2, (radius, length / 2)
        geom.quat[:] = half_turn / norm if norm > 1e-6 else [0, 1, 0, 0]

    def aim(self, target: np.ndarray, distance: float, azimuth: float, elevation: float) -> None:
        """Look at a point from a distance; azimuth 0 is along y, elevation looks down (radians)."""
        forward = np.array([np.sin(azimuth), np.cos(azimuth), 0]) * np.cos(elevation)
        forward[2] = -np.sin(elevation)
        right = np.array([np.cos(azimuth), -np.sin(azimuth), 0])
        axes = np.stack([right, np.cross(right, forward), -forward], axis=1)
        self.model.camera(NAME).pos[:] = target - distance * forward
        self._mujoco.mju_mat2Quat(self.model.camera(NAME).quat, axes.ravel())

    def shoot(self, height: int, width: int) -> np.ndarray:
        """A picture (height, width, 3) uint8 of the scene as it is now."""
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)
        return self._renderer.frame(self.data, height, width)

    def project(self, points: np.ndarray, side: float) -> np.ndarray:
        """Where points (N, 3) are in a square picture: (N, 2), across and down, 0 to `side`."""
        eye, axes = self.model.camera(NAME), np.empty(9)
        self._mujoco.mju_quat2Mat(axes, eye.quat)
        right, up, back = ((points - eye.pos) @ axes.reshape(3, 3)).T
        focal = side / 2 / np.tan(np.deg2rad(eye.fovy[0]) / 2)
        return side / 2 - focal * np.stack([right, -up], axis=1) / back[:, None]
