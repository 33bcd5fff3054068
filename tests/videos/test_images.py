"""Clips of numbered stills."""

import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

from cwm.infra.errors import UserError
from cwm.videos import images
from cwm.videos.ffmpeg import DecodeError, Geometry
from cwm.videos.images import Stills, group_stills, person_boxes, read_stills, resize


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def walk(root, numbers, size=(80, 100), name="S1_Walk.1_{:06d}.png"):
    """Stills with their number as the red of their upper half."""
    for number in numbers:
        pixels = np.full((*size, 3), 90, np.uint8)
        pixels[: size[0] // 2, :, 0] = number
        picture(root / name.format(number), pixels)


def test_missing_number_divides_stills():
    files = [f"a/x_{i:06d}.jpg" for i in (1, 6, 11, 21, 26)]
    files += [f"b/{i}.jpg" for i in (8, 9, 10, 11)] + ["b/cover.jpg", "a/y_000001.JPG"]
    assert list(group_stills(files)) == [
        ("a/x_000001.jpg", Stills(5, 3)),
        ("a/x_000021.jpg", Stills(5, 2)),
        ("a/y_000001.JPG", Stills(1, 1)),
        ("b/8.jpg", Stills(1, 4)),
    ]
    assert images.still_names("a/x_000001.jpg", Stills(5, 3)) == files[:3]
    assert images.still_names("b/8.jpg", Stills(1, 4)) == [
        "b/8.jpg",
        "b/9.jpg",
        "b/10.jpg",
        "b/11.jpg",
    ]


def test_padding_divides_stills():
    assert list(group_stills(["a_1.jpg", "a_01.jpg"])) == [
        ("a_1.jpg", Stills(1, 1)),
        ("a_01.jpg", Stills(1, 1)),
    ]
    plain, padded = [f"{i}.jpg" for i in range(1, 12)], [f"{i:02}.jpg" for i in range(1, 12)]
    assert list(group_stills(plain)) == [("1.jpg", Stills(1, 11))]
    assert list(group_stills(padded)) == [("01.jpg", Stills(1, 11))]
    assert list(group_stills({*plain, *padded})) == [
        ("1.jpg", Stills(1, 9)),
        ("01.jpg", Stills(1, 11)),
    ]
    assert list(group_stills(["8.jpg", "09.jpg", "10.jpg"])) == [
        ("8.jpg", Stills(1, 1)),
        ("09.jpg", Stills(1, 2)),
    ]


def test_16_bit_images_keep_their_upper_8_bits(tmp_path):
    """As in OpenCV: 0x1234 becomes 0x12 = 18, 40,000 becomes 156, 65,535 becomes 255."""
    grey = np.full((64, 64), 0x1234, np.uint16)
    grey[:, 32:], grey[32:] = 40_000, 65_535
    picture(tmp_path / "1.png", grey)
    (frame,) = read_stills(tmp_path, "1.png", Stills(1, 1), Geometry()).frames
    assert [frame[0, 0].tolist(), frame[0, 63].tolist(), frame[63, 0].tolist()] == [
        [18, 18, 18],
        [156, 156, 156],
        [255, 255, 255],
    ]


# Displayed corners of an image stored as 1 2 / 3 4, by the EXIF standard.
CORNERS = {0: "1234", 1: "1234", 2: "2143", 3: "4321", 4: "3412", 5: "1324", 6: "3142", 7: "4231",
           8: "2413", 9: "1234"}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    stored = np.repeat(np.repeat(np.uint8([[1, 2], [3, 4]]), 64, 0), 96, 1) * 50
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / f"1.{suffix}", exif=exif)
    frames, width, height, *_ = read_stills(tmp_path, f"1.{suffix}", Stills(1, 1), Geometry())
    assert (width, height) == ((128, 192) if orientation in (5, 6, 7, 8) else (192, 128))
    corners = frames[0][[8, 8, 56, 56], [8, 56, 8, 56], 0]
    assert "".join(str(round(value / 50)) for value in corners) == CORNERS[orientation]


def test_damaged_exif_data_is_ignored(tmp_path):
    pixels = np.zeros((64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.jpg", exif=b"Exif\0\0this is no TIFF")
    assert read_stills(tmp_path, "1.jpg", Stills(1, 1), Geometry())[1:3] == (96, 64)


def test_skip_and_every_select_stills():
    """As `data/ytb_driving/make_list.py`: drop 99 stills, then keep multiples of 5."""
    files = [f"dir-0/{i}.jpg" for i in [*range(7, 307), *range(400, 480), *range(500, 620)]]
    assert list(group_stills(files, skip=99, every=5)) == [
        ("dir-0/110.jpg", Stills(5, 40)),  # 7 + 99 = 106 is the first, 110 the first multiple
        ("dir-0/600.jpg", Stills(5, 4)),  # the second run is shorter than 99 stills
    ]


def test_frames_are_in_order(tmp_path):
    walk(tmp_path, range(0, 100, 2))
    frames, width, height, seconds, _ = read_stills(
        tmp_path, "S1_Walk.1_000000.png", Stills(2, 50), Geometry()
    )
    assert (frames.shape, width, height, seconds) == ((50, 64, 64, 3), 100, 80, None)
    assert (frames[:, 5, 5] == [[i, 90, 90] for i in range(0, 100, 2)]).all()
    assert (frames[:, 60] == 90).all()


def test_center_crop_equals_the_reference(tmp_path):
    """Of a 75 x 100 image the reference keeps rows 0..73 and columns 13..86: 2 * (75 // 2)."""
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    picture(tmp_path / "1.png", pixels)
    (frame,) = read_stills(tmp_path, "1.png", Stills(1, 1), Geometry(aspect="center-crop")).frames
    np.testing.assert_array_equal(frame, resize(pixels[0:74, 13:87]))


def test_resize_interpolates_the_four_nearest_pixels():
    """To 64 from 128 each pixel is the mean of a 2 x 2 block; from 64 nothing changes."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    mean = pixels.reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
    assert np.abs(resize(pixels) - mean).max() <= 0.75
    np.testing.assert_array_equal(resize(pixels[:64, :64]), pixels[:64, :64])
    # From 192, pixel 0 lies on source pixel 1, whose neighbours do not count.
    third = np.zeros((192, 192, 3), np.uint8)
    third[1::3, 1::3] = 200
    assert (resize(third) == 200).all()


def test_person_boxes_by_hand():
    joints = np.array(
        [
            [[400.7, 300.2], [450.5, 600.9]],  # 400 to 451, 300 to 601: 501 wide about 425.5, 450.5
            [[50.0, 500.0], [90.0, 520.0]],  # would exceed the image on the left
            [[10.0, 10.0], [990.0, 990.0]],  # the whole image
        ]
    )
    assert person_boxes(joints).tolist() == [
        [175, 200, 676, 701],
        [0, 390, 240, 630],
        [0, 0, 1000, 1000],
    ]


def annotate(root, names, joints):
    (root / "annot").mkdir()
    with h5py.File(root / "annot/train.h5", "w") as file:
        file["part"] = joints
    (root / "annot/train_images.txt").write_text("\n".join(names))


def test_person_fills_the_frame(tmp_path):
    pixels = np.zeros((500, 500, 3), np.uint8)  # joints refer to twice the size
    pixels[150:350, 210:230] = 255
    picture(tmp_path / "S1/S1_Walk.1_000001.jpg", pixels)
    joints = np.array([[[430.0, 310.0], [450.0, 690.0]]])
    annotate(tmp_path, ["S1_Walk.1_000001.jpg"], joints)
    (tmp_path / "annot/._train.h5").write_bytes(b"hidden")
    (frame,) = read_stills(
        tmp_path, "S1/S1_Walk.1_000001.jpg", Stills(1, 1), Geometry(aspect="person")
    ).frames
    rows, columns = np.nonzero(frame[..., 0] > 128)
    assert rows.max() - rows.min() == pytest.approx(64 * 400 / 580, abs=2)
    assert columns.mean() == pytest.approx(31.5, abs=1)


def test_damaged_stills_and_joints_are_errors(tmp_path):
    walk(tmp_path, range(3))
    first, geometry = "S1_Walk.1_000000.png", Geometry()
    whole = (tmp_path / first).read_bytes()
    (tmp_path / first).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"S1_Walk\.1_000000\.png: "):
        read_stills(tmp_path, first, Stills(1, 3), geometry)
    (tmp_path / first).write_bytes(b"text")
    with pytest.raises(DecodeError, match=r"000000\.png: not an image"):
        read_stills(tmp_path, first, Stills(1, 3), geometry)
    (tmp_path / first).unlink()
    with pytest.raises(DecodeError, match=r"000000\.png: No such file"):
        read_stills(tmp_path, first, Stills(1, 3), geometry)
    person = Geometry(aspect="person")
    with pytest.raises(UserError, match=r"no annot/\*\.h5"):
        read_stills(tmp_path, "S1_Walk.1_000001.png", Stills(1, 1), person)
    annotate(tmp_path, ["S1_Walk.1_000002.png"], np.zeros((1, 2, 2)))
    with pytest.raises(DecodeError, match=r"000001\.png: no joints"):
        read_stills(tmp_path, "S1_Walk.1_000001.png", Stills(1, 1), person)
    images.joint_boxes.cache_clear()
    (tmp_path / "annot/train.h5").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"train\.h5 .* not the joints"):
        read_stills(tmp_path, "S1_Walk.1_000002.png", Stills(1, 1), person)


def test_damaged_colour_profile_is_a_failure_of_the_still(tmp_path):
    walk(tmp_path, [1], name="{}.png")
    whole, end = (tmp_path / "1.png").read_bytes()[:-12], b"\0\0\0\0IEND\xaeB`\x82"
    chunk = b"\0\0\0\0iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big")
    (tmp_path / "1.png").write_bytes(whole + chunk + end)
    with pytest.raises(DecodeError, match=r"1\.png: index out of range"):
        read_stills(tmp_path, "1.png", Stills(1, 1), Geometry())


SQUARE = [[400.0, 400.0], [600.0, 600.0]]


@pytest.mark.parametrize(
    ("joints", "names", "said"),
    [
        ([SQUARE], b"caf\xe9.png", "are not the joints of stills"),
        ([b"text"], b"1.png", "are not the joints of stills"),
        ([1.0], b"1.png", r"has joints \(1,\) for 1 stills"),
        ([SQUARE[:1]], b"1.png", r"has joints \(1, 1, 2\) for 1 stills"),
        (np.zeros((1, 0, 2)), b"1.png", r"has joints \(1, 0, 2\) for 1 stills"),
        ([np.full((2, 2), np.nan)], b"1.png", r"1\.png: no joints"),
        ([[[100.0, 700.0], [300.0, 900.0]]], b"1.png", r"1\.png: .* outside the image"),
    ],
)
def test_invalid_joints_are_errors(tmp_path, joints, names, said):
    walk(tmp_path, [1], (300, 1000), "{}.png")
    annotate(tmp_path, [], joints)
    (tmp_path / "annot/train_images.txt").write_bytes(names)
    with pytest.raises((UserError, DecodeError), match=said):
        read_stills(tmp_path, "1.png", Stills(1, 1), Geometry(aspect="person"))
