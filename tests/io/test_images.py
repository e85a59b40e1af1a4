"""Pictures in and out: every way of handing one over, and one sentence for every way that it can be wrong."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmada.errors import InputError
from mmada.io.images import MAX_PIXELS, check_output, load_image, load_mask, save_gif, save_image

RED, BLUE = (200, 10, 10), (10, 20, 220)


@pytest.fixture
def picture() -> Image.Image:
    """6 x 4, red on the left and blue on the right."""
    image = Image.new("RGB", (6, 4), RED)
    image.paste(BLUE, (3, 0, 6, 4))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge_png(side: int) -> bytes:
    """A valid header of a ``side`` x ``side`` picture, and hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_path_bytes_image_and_array_are_the_same_picture(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture.save(path)
    floats = np.asarray(picture) / 255.0
    for source in (
        path,
        str(path),
        path.read_bytes(),
        picture,
        np.asarray(picture),
        floats.astype(np.float32),
    ):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), np.asarray(picture))


def test_returns_a_copy(picture: Image.Image) -> None:
    load_image(picture).putpixel((0, 0), (0, 0, 0))
    assert picture.getpixel((0, 0)) == RED


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert load_image(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert load_image(encoded(palette)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(np.zeros((2, 2, 4), np.uint8)).getpixel((1, 1)) == (255, 255, 255)


def test_exif_orientation_is_applied(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = load_image(encoded(picture, exif=exif))
    assert turned.size == (4, 6)
    assert turned.getpixel((0, 0)) == RED
    assert turned.getpixel((0, 5)) == BLUE


def test_grey_palette_and_sixteen_bit_pictures() -> None:
    assert load_image(Image.new("L", (2, 2), 77)).getpixel((0, 0)) == (77, 77, 77)
    deep = Image.fromarray(np.full((2, 2), 65535 // 2, np.uint16))
    assert load_image(encoded(deep)).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_array_shapes(shape: tuple[int, ...]) -> None:
    assert load_image(np.zeros(shape, np.uint8)).size == (5, 3)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 5, 2), np.uint8), r"shape \(3, 5, 2\)"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.zeros((3, 5), np.int64), "int64"),
        (np.full((3, 5), 1.5), "scale them"),
        (np.full((3, 5), np.nan), "scale them"),
    ],
)
def test_wrong_arrays(array: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_image(array)


def test_missing_folder_empty_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for source, said in (
        (tmp_path / "none.png", "does not exist"),
        ("", "does not exist"),
        (tmp_path, "not a file"),
        (tmp_path / "notes.txt", "not a readable picture"),
        ("a\0b", "usable path|does not exist"),
        ("x" * 5000, "usable path|does not exist"),
        (b"", "not a readable picture"),
        (7, "is a int"),
        (None, "is a NoneType"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            load_image(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_short(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert load_image(data).size == (64, 64)
    for share in (0.05, 0.5, 0.9):
        with pytest.raises(InputError):
            load_image(data[: int(len(data) * share)])


def test_damaged_pixels(picture: Image.Image) -> None:
    data = bytearray(encoded(picture))
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(InputError, match="damaged"):
        load_image(bytes(data))


@pytest.mark.parametrize("side", [8001, 11_000, 30_000])
def test_too_large_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(side))
    with pytest.raises(InputError, match="64 megapixels"):
        load_image(path)


def test_the_limit_itself_is_allowed() -> None:
    assert MAX_PIXELS == 8000 * 8000
    with pytest.raises(InputError, match="damaged"):  # that is: not refused for its size
        load_image(huge_png(8000))


def test_mask_is_where_it_is_white() -> None:
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    expected = [[False, False, True, True]]
    assert load_mask(grey, (4, 1)).tolist() == expected
    assert load_mask(np.array(expected), (4, 1)).tolist() == expected


def test_zeros_and_ones_are_a_mask_and_what_is_transparent_is_no_hole() -> None:
    wanted = np.zeros((4, 6), bool)
    wanted[1, 2] = True
    for kind in (np.bool_, np.uint8, np.int64):
        assert (load_mask(wanted.astype(kind), (6, 4)) == wanted).all()
    painted = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    painted.putpixel((2, 1), (255, 255, 255, 255))
    assert (load_mask(painted, (6, 4)) == wanted).all()


def test_wrong_masks() -> None:
    white = Image.new("L", (4, 3), 255)
    with pytest.raises(InputError, match="4x3 pixels but its image is 3x4"):
        load_mask(white, (3, 4))
    with pytest.raises(InputError, match="black everywhere"):
        load_mask(Image.new("L", (4, 3), 0), (4, 3))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp"])
def test_save_and_load(picture: Image.Image, tmp_path: Path, suffix: str) -> None:
    path = save_image(picture, tmp_path / f"a{suffix}")
    assert load_image(path).size == picture.size
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wrong_outputs(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name, said in (
        ("a.doc", "should end in"),
        ("a", "should end in"),
        ("none/a.png", "does not exist"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(InputError, match=said):
            save_image(picture, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]
    with pytest.raises(InputError, match=r"should end in \.gif"):
        check_output(tmp_path / "a.png", (".gif",), "gif")


def test_a_failed_write_leaves_the_old_file(picture: Image.Image, tmp_path: Path) -> None:
    path = save_image(picture, tmp_path / "a.png")
    before = path.read_bytes()

    def broken(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", broken)
        with pytest.raises(InputError, match="No space left"):
            save_image(picture, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_gif_holds_every_frame_and_waits_on_the_last(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (k * 60, 0, 0)) for k in range(4)]
    with Image.open(save_gif(frames, tmp_path / "a.gif", ms=50)) as animation:
        durations = []
        for number in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(number)
            durations.append(animation.info["duration"])
    assert durations == [50, 50, 50, 1500]
    with pytest.raises(InputError, match="no frames"):
        save_gif([], tmp_path / "b.gif")
    with pytest.raises(InputError, match="ms: 5"):
        save_gif(frames, tmp_path / "b.gif", ms=5)
