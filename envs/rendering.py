"""Offscreen rendering with MuJoCo: the choice of OpenGL, and two qualities.

On a CPU rendering takes longer than physics. `reference` renders a model as published; `fast` omits
shadows, reflections and multisampling and is about ten times as fast.
"""

import contextlib
import importlib
import os
import sys
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import EnvError

QUALITIES = ("fast", "reference")

PACKAGES = {
    "osmesa": "apt-get install libosmesa6",
    "egl": "apt-get install libegl1 libopengl0 libgl1 (or set MUJOCO_GL=osmesa)",
}


def choose_opengl() -> None:
    """Choose an OpenGL that needs no display, before a simulator is imported.

    MUJOCO_GL is kept if it is set. Otherwise it becomes `egl` if there is an NVIDIA GPU, else
    `osmesa`; on macOS it stays unset, which selects CGL. MUJOCO_GL and PYOPENGL_PLATFORM are
    converted to lower case, which some simulators require. Raises EnvError for an invalid
    MUJOCO_EGL_DEVICE_ID.
    """
    for name in {"MUJOCO_GL", "PYOPENGL_PLATFORM"} & os.environ.keys():
        os.environ[name] = os.environ[name].strip().lower()
    if not os.environ.get("MUJOCO_GL") and sys.platform != "darwin":
        nvidia = any(Path("/dev").glob("nvidia[0-9]*"))
        os.environ["MUJOCO_GL"] = "egl" if nvidia else "osmesa"
    # Mesa without threads of its own, which a forked process would lack. Small frames are rendered
    # as fast.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    device = os.environ.get("MUJOCO_EGL_DEVICE_ID", "0")
    if os.environ.get("MUJOCO_GL") == "egl" and not device.isdecimal():
        raise _no_opengl(ValueError(f"MUJOCO_EGL_DEVICE_ID is {device!r}"))


def load(simulator: str) -> ModuleType:
    """Import a simulator after `choose_opengl`.

    Raises:
        EnvError: the package or its OpenGL is not installed, or an environment variable is invalid;
            the message contains the remedy.
    """
    choose_opengl()
    try:
        return importlib.import_module(simulator)
    except ModuleNotFoundError as error:
        raise EnvError(f"no module {error.name!r}: pip install 'contextwm[sim]'") from error
    except (AttributeError, ImportError, RuntimeError) as error:
        raise _no_opengl(error) from error


def _no_opengl(error: Exception) -> EnvError:
    """Translate a failure to initialise OpenGL into its cause and remedy."""
    chosen = os.environ.get("MUJOCO_GL", "")
    reason = str(error).strip().splitlines()[0]
    cure = PACKAGES.get(chosen, "unset MUJOCO_GL, or set it to osmesa or egl")
    platform = os.environ.get("PYOPENGL_PLATFORM")
    loaded = getattr(sys.modules.get("OpenGL.platform"), "PLATFORM", None)
    if sys.platform == "darwin":
        cure = "unset MUJOCO_GL"
    elif "MUJOCO_EGL_DEVICE_ID" in reason:
        cure = "unset MUJOCO_EGL_DEVICE_ID, or set it to the number of a device"
    elif chosen in PACKAGES and platform and platform != chosen:
        reason = f"PYOPENGL_PLATFORM is {platform!r}"
        cure = f"unset PYOPENGL_PLATFORM, or set it to {chosen}"
    elif chosen in PACKAGES and loaded and chosen not in type(loaded).__module__:
        cure = f"set PYOPENGL_PLATFORM={chosen} before the program imports OpenGL"
    return EnvError(f"MuJoCo cannot draw with MUJOCO_GL={chosen} ({reason}); {cure}")


_forked: int | None = None  # process id of the last fork from this process with Mesa's threads


def _before_fork() -> None:
    global _forked
    with contextlib.suppress(OSError):  # no /proc, or a thread has just ended
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        if any(name.startswith("llvmpipe") for name in names):
            _forked = os.getpid()


os.register_at_fork(before=_before_fork)


def _check_process() -> None:
    """Raise EnvError if rendering would deadlock: the parent's Mesa threads do not exist here."""
    if _forked not in (None, os.getpid()):
        raise EnvError(
            "this process was forked from one where OpenGL renders with threads, which a fork does"
            ' not copy; start processes with context="spawn", or set LP_NUM_THREADS=0'
        )


def _open_gl() -> Any:
    """An OpenGL context of the chosen kind, current in this thread."""
    chosen = os.environ.get("MUJOCO_GL")
    # mujoco.GLContext was chosen at the first import of mujoco, which may precede `load`.
    home = f"mujoco.{chosen}" if chosen in PACKAGES else "mujoco"
    context = importlib.import_module(home).GLContext
    # `Renderer` frees it. `__del__` would free it again, and fail at interpreter exit.
    gl = type("Context", (context,), {"__del__": lambda self: None})(64, 64)
    gl.make_current()
    return gl


class Renderer:
    """Offscreen renderer of one camera of one MuJoCo model, at any size.

    Unlike `mujoco.Renderer`, it has two qualities, and one context for all sizes: creating a
    context takes about a second, because it uploads every mesh and texture.

    Args:
        model: the compiled model.
        camera: name or index.
        quality: `fast` or `reference`.
        inverted: the camera is upside down; frames are flipped vertically to be upright.

    Raises:
        EnvError: OpenGL cannot be initialised.
    """

    def __init__(self, model: Any, camera: str | int, quality: str, inverted: bool = False) -> None:
        _check_process()
        self._mujoco = mujoco = load("mujoco")
        self._model, self._inverted = model, inverted
        if quality == "fast":
            model.vis.quality.offsamples = 0  # read by the context below
        try:
            gl = _open_gl()
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
            raise _no_opengl(error) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        self._gl, self._context = gl, context
        self.close = weakref.finalize(self, _free, gl, context)
        self._scene = mujoco.MjvScene(model, maxgeom=5000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] &= quality == "reference"
        self._option = mujoco.MjvOption()
        # Rangefinder rays are not part of the scene; dm_control omits them too.
        self._option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = False
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id

    def frame(self, data: Any, height: int, width: int) -> NDArray[np.uint8]:
        """Render the state `data`: a new array uint8 (height, width, 3)."""
        mujoco, context = self._mujoco, self._context
        self._make_current()
        if width > context.offWidth or height > context.offHeight:
            mujoco.mjr_resizeOffscreen(width, height, context)
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        view = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(view, self._scene, context)
        mujoco.mjr_readPixels(pixels, None, view, context)
        # OpenGL returns the lowest row first; for an inverted camera that is the top.
        return pixels if self._inverted else np.ascontiguousarray(pixels[::-1])

    def _make_current(self) -> None:
        _check_process()
        self._gl.make_current()

    def haze(self, colour: NDArray[np.float64], start: float, end: float) -> None:
        """Fade the scene linearly into a colour, RGB in [0, 1], between two distances (m)."""
        from OpenGL import GL

        self._scene.flags[self._mujoco.mjtRndFlag.mjRND_FOG] = True
        self._context.fogRGBA[:3] = colour
        # MuJoCo sets the distances only when it creates a context, and the colour one frame late.
        self._make_current()
        GL.glFogfv(GL.GL_FOG_COLOR, self._context.fogRGBA)
        GL.glFogf(GL.GL_FOG_START, start)
        GL.glFogf(GL.GL_FOG_END, end)

    def paint(self, texture: str, pixels: NDArray[np.uint8]) -> None:
        """Replace a texture by pixels (H, W, 3) of its size; cube faces are stacked vertically."""
        slot = self._model.texture(texture)
        start = int(slot.adr[0])
        self._model.tex_data[start : start + pixels.size] = pixels.ravel()
        self._make_current()
        self._mujoco.mjr_uploadTexture(self._model, self._context, slot.id)

    def upload_terrain(self) -> None:
        """Upload height fields that changed after the context was created."""
        self._make_current()
        for field in range(self._model.nhfield):
            self._mujoco.mjr_uploadHField(self._model, self._context, field)


def _free(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()
    gl.free()
