"""A MuJoCo scene whose bodies, textures and camera change from frame to frame."""

from typing import Any

import numpy as np

from envs.rendering import Renderer, load

CAMERA = "camera"  # name of the fixed camera that the MJCF must have
# MuJoCo ignores later changes of a position or rotation that is zero when it compiles the model.
CAMERA_MJCF = f'<camera name="{CAMERA}" pos="0 -1 1" euler="9 9 9" fovy="45"/>'
CAPSULE = '<geom name="{0}" type="capsule" size=".1 .1" pos="1 1 1" euler="9 9 9" material="{1}"/>'


class Scene:
    """A scene and its camera.

    mjcf: the model, with `CAMERA_MJCF` in it. Raises EnvError without OpenGL.
    """

    def __init__(self, mjcf: str) -> None:
        self._mujoco = load("mujoco")
        self.model: Any = self._mujoco.MjModel.from_xml_string(mjcf)
        self.data: Any = self._mujoco.MjData(self.model)
        self._renderer = Renderer(self.model, CAMERA, "fast")

    def paint(self, texture: str, pixels: np.ndarray) -> None:
        """Replace a texture by pixels (H, W, 3) uint8; a cube's six faces form one column."""
        self._renderer.paint(texture, pixels)

    def move(self, body: str, position: np.ndarray, yaw: float) -> None:
        """Move a mocap body to a position (3,), metres, and turn it about the vertical."""
        slot = self.model.body(body).mocapid[0]
        self.data.mocap_pos[slot] = position
        self.data.mocap_quat[slot] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def stretch(self, capsule: str, a: np.ndarray, b: np.ndarray, radius: float) -> None:
        """Stretch a capsule from a (3,) to b (3,), in the frame of its body."""
        geom, line = self.model.geom(capsule), b - a
        length = np.linalg.norm(line)
        x, y, z = line / length
        half_turn = np.array([1 + z, -y, x, 0])  # rotates the z axis onto the line
        norm = np.linalg.norm(half_turn)
        geom.pos[:], geom.size[:2] = (a + b) / 2, (radius, length / 2)
        geom.quat[:] = half_turn / norm if norm > 1e-6 else [0, 1, 0, 0]

    def aim(self, target: np.ndarray, distance: float, azimuth: float, elevation: float) -> None:
        """Look at a point from a distance; azimuth 0 is along y, elevation looks down (radians)."""
        forward = np.array([np.sin(azimuth), np.cos(azimuth), 0]) * np.cos(elevation)
        forward[2] = -np.sin(elevation)
        right = np.array([np.cos(azimuth), -np.sin(azimuth), 0])
        axes = np.stack([right, np.cross(right, forward), -forward], axis=1)
        self.model.camera(CAMERA).pos[:] = target - distance * forward
        self._mujoco.mju_mat2Quat(self.model.camera(CAMERA).quat, axes.ravel())

    def frame(self, height: int, width: int) -> np.ndarray:
        """The present state as pixels (height, width, 3) uint8."""
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)
        return self._renderer.frame(self.data, height, width)

    def project(self, points: np.ndarray, side: float) -> np.ndarray:
        """Points (N, 3) in the scene -> (N, 2) in a square frame: across and down, 0 to `side`."""
        camera, axes = self.model.camera(CAMERA), np.empty(9)
        self._mujoco.mju_quat2Mat(axes, camera.quat)
        right, up, back = ((points - camera.pos) @ axes.reshape(3, 3)).T
        focal = side / 2 / np.tan(np.deg2rad(camera.fovy[0]) / 2)
        return side / 2 - focal * np.stack([right, -up], axis=1) / back[:, None]
