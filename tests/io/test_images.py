"""Pictures in and out: every way of handing one over, and one sentence for every way that it can be wrong."""

import base64
import contextlib
import os
import struct
import time
import zlib
from io import BytesIO, StringIO
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
import torch
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
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float16, np.float32, np.float64])
def test_array_shapes_and_types(shape: tuple[int, ...], dtype: type) -> None:
    image = load_image(np.full(shape, 255 if dtype is np.uint8 else 1, dtype))
    assert (image.size, image.mode, image.getpixel((0, 0))) == ((5, 3), "RGB", (255, 255, 255))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_tensors_with_channels_first_or_last(dtype: torch.dtype, first: bool, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 2, (7, 5, channels) if channels else (7, 5), np.uint8) * np.uint8(255)
    tensor = torch.from_numpy(array).to(dtype)
    tensor = tensor if dtype == torch.uint8 else (tensor / 255).requires_grad_()
    given = tensor.permute(2, 0, 1) if first and channels else tensor
    assert np.array_equal(np.asarray(load_image(given)), np.asarray(load_image(array)))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 5, 2), np.uint8), r"shape \(3, 5, 2\)"),
        (np.zeros((3, 50, 60), np.uint8), r"shape \(3, 50, 60\), channels first; put them last"),
        (np.zeros((1, 50, 60), np.uint8), "channels first"),
        (np.zeros((2, 3, 50, 60), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.full((3, 5), 7, np.int64), "int64"),
        (np.zeros((3, 5), np.complex64), "complex64"),
        (np.zeros((3, 5), object), "object"),
        (np.full((3, 5), 1.5), "scale them"),
        (np.full((3, 5), -1.0), "scale them"),
        (np.full((3, 5), np.nan), "scale them"),
        (np.full((3, 5), np.inf), "scale them"),
        (torch.zeros(1, 3, 50, 60), "tensor of shape .* give one image"),
        (torch.zeros(7), "tensor of shape"),
        (torch.full((3, 5, 5), -1.0), "scale them"),
        (torch.full((3, 5, 5), 7), "int64"),
    ],
)
def test_wrong_arrays_and_tensors(array: np.ndarray | torch.Tensor, said: str) -> None:
    for load in (load_image, lambda source, name: load_mask(source, (5, 3), name)):
        with pytest.raises(InputError, match=rf"^its name .*{said}"):
            load(array, "its name")


@pytest.mark.parametrize("shape", [(100_000, 100_000), (100_000, 100_000, 3), (2**20, 2**20)])
def test_an_array_without_memory_is_refused_by_its_shape(shape: tuple[int, ...]) -> None:
    began = time.monotonic()
    for dtype in (np.bool_, np.uint8, np.int64, np.float32):
        array = np.broadcast_to(np.zeros((), dtype), shape)
        for load in (load_image, lambda source: load_mask(source, (64, 64))):
            with pytest.raises(InputError, match="above the limit of 64 megapixels"):
                load(array)
    assert time.monotonic() - began < 2


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16B"]


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode(mode: str) -> None:
    image = Image.new(mode, (5, 3))
    found = load_image(image)
    assert (found.size, found.mode) == ((5, 3), "RGB")
    assert image.mode == mode
    if mode not in ("I;16", "I;16B"):
        with contextlib.suppress(InputError):  # black
            assert load_mask(image, (5, 3)).shape == (3, 5)


@pytest.mark.parametrize(("mode", "said"), [("I", "32 bits"), ("F", "32 bits"), ("LAB", "convert it to RGB")])
def test_modes_without_a_range_are_refused(mode: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_image(Image.new(mode, (5, 3)))


def test_premultiplied_colours_are_those_of_straight_ones() -> None:
    straight = Image.new("RGBA", (2, 2), (200, 100, 50, 128))
    assert np.allclose(np.asarray(load_image(straight.convert("RGBa"))), np.asarray(load_image(straight)), atol=2)


def sources(data: bytes, path: Path) -> dict[str, object]:
    """One image file in every form that is accepted."""
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    (link := path.with_name("link")).symlink_to(path)
    read = BytesIO(data)
    read.read()
    return {
        "text": str(path), "path": path, "link": link,
        "bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data),
        "file": path.open("rb"), "buffer": BytesIO(data), "read before": read, "url": f"data:image/png;base64,{text}",
        "URL": f"DATA:;BASE64,{text[:8]} {text[8:]}", "percent": "data:image/png," + quote_from_bytes(data),
        "image": Image.open(path), "array": np.asarray(Image.open(path)),
        "tensor": torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1),
    }  # fmt: skip


def test_every_form_is_the_same_image(picture: Image.Image, tmp_path: Path) -> None:
    for name, source in sources(encoded(picture), tmp_path / "a.png").items():
        assert load_image(source).tobytes() == picture.tobytes(), name
        if hasattr(source, "close"):
            source.close()


def odd_sources(folder: Path) -> list[tuple[object, str]]:
    """What is no image, and what is said of it."""
    (folder / "notes.txt").write_text("hello")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (closed := BytesIO(b"")).close()
    (file := (folder / "notes.txt").open()).close()
    (image := Image.open(BytesIO(encoded(Image.new("RGB", (4, 4)))))).close()
    return [
        (folder / "none.png", "does not exist; check the path"), ("", "is empty"), (folder, "is not a file"),
        (folder / "notes.txt", "is not a readable image"), (folder / "notes.txt" / "a.png", "a part of the path is a file"),
        (folder / "loop", "loop of symbolic links"), (folder / "pipe", "is not a file"), ("/dev/zero", "is not a file"),
        ("a\0b", "has a NUL character"), ("\ud800.png", "is not valid text"), ("x" * 5000, "is a name of 5000 bytes"),
        (b"", "is not a readable image"), (bytearray(), "is not a readable image"), (BytesIO(), "is not a readable image"),
        (closed, "is a file that is closed"), (file, "is a file that is closed"), (image, "is closed"),
        (StringIO("hello"), "is opened as text; open it with 'rb'"), ("https://example.org/a.png", "is a web address"),
        ("data:image/png;base64", "URL without data"), ("data:image/png;base64,@@@@", "base64 is damaged"),
        ("data:,hello", "is not a readable image"), (7, "is an int"), (None, "is None"), ([], "is a list"),
        ({}, "is a dict"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(26))
def test_invalid_images_raise_one_sentence_that_names_the_argument(tmp_path: Path, number: int) -> None:
    source, said = odd_sources(tmp_path)[number]
    for load in (load_image, lambda given, name: load_mask(given, (4, 4), name)):
        with pytest.raises(InputError, match=said) as caught:
            load(source, "start image")
        sentence = str(caught.value)
        assert sentence.startswith("start image ")
        assert sentence.isprintable()
        assert len(sentence) < 260 + len(str(tmp_path))
        assert "Errno" not in sentence


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


def test_zeros_and_ones_are_a_mask_and_transparency_is_not_a_hole() -> None:
    wanted = np.zeros((4, 6), bool)
    wanted[1, 2] = True
    assert (load_mask(torch.from_numpy(wanted).long(), (6, 4)) == wanted).all()
    for kind in (np.bool_, np.uint8, np.int64):
        assert (load_mask(wanted.astype(kind), (6, 4)) == wanted).all()
    painted = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    painted.putpixel((2, 1), (255, 255, 255, 255))
    assert (load_mask(painted, (6, 4)) == wanted).all()


def masks(image: Image.Image) -> dict[str, tuple[Image.Image, str]]:
    """Masks of a hole at the left half, with transparency, and how each is meant."""
    size = image.size
    left = (0, 0, size[0] // 2, size[1])
    rng = np.random.default_rng(3)
    made: dict[str, tuple[Image.Image, str]] = {}

    def erased(ground: Image.Image, kind: str, name: str, zeroed: bool = False) -> None:
        alpha = Image.new("L", size, 255)
        alpha.paste(0, left)
        found = ground.convert("RGBA")
        found.putalpha(alpha)
        if zeroed:
            found.paste((0, 0, 0, 0), left)
        made[name] = (found, kind)

    erased(image, "hole", "a copy with the hole erased")
    erased(image, "hole", "a copy with the hole erased and black beneath", zeroed=True)
    for value in (0, 60, 127):
        erased(Image.new("RGB", size, (value,) * 3), "hole", f"all of {value}, the hole erased")
    for value in (128, 255):
        erased(Image.new("RGB", size, (value,) * 3), "refused", f"all of {value}, something erased")
    other = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
    erased(other, "refused", "another photo, something erased")
    for name, ground in (("a transparent ground", (0, 0, 0, 0)), ("a transparent white ground", (255, 255, 255, 0))):
        strokes = Image.new("RGBA", size, ground)
        strokes.paste((255, 255, 255, 255), left)
        made[f"white on {name}"] = (strokes, "hole" if ground[0] == 0 else "refused")
    both = Image.new("RGBA", size, (0, 0, 0, 255))
    both.paste((255, 255, 255, 255), left)
    both.paste((0, 0, 0, 0), (size[0] - 1, 0, *size))
    made["black and white with a transparent margin"] = (both, "hole")
    opaque = Image.new("RGBA", size, (0, 0, 0, 255))
    opaque.paste((255, 255, 255, 255), left)
    made["black and white, opaque"] = (opaque, "hole")
    made["in grey"] = (made["all of 0, the hole erased"][0].convert("LA"), "hole")
    return made


def test_masks_with_transparency_are_read_as_meant_or_refused() -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 255, (8, 12, 3), np.uint8))
    wanted = np.zeros((8, 12), bool)
    wanted[:, :6] = True
    for name, (mask, kind) in masks(image).items():
        for form in (mask, encoded(mask), np.asarray(mask) if mask.mode == "RGBA" else mask):
            if kind == "refused":
                with pytest.raises(InputError, match=r"hole is white, or its hole is transparent \(as for OpenAI"):
                    load_mask(form, image.size, image=image)
            else:
                assert (load_mask(form, image.size, image=image) == wanted).all(), name


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
        with pytest.raises(InputError, match="the disk is full"):
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


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("color", ["red", "white", "gray"])
def test_a_mask_that_is_a_copy_of_its_image_is_refused(mode: str, color: str) -> None:
    image = Image.new("RGB", (16, 12), "teal")
    image.paste(color, (4, 4, 10, 10))
    image = image.convert(mode)
    with pytest.raises(InputError, match="mask is a copy of the image, which shows no hole; paint the hole white"):
        load_mask(image.copy(), image.size, image=image)


def test_a_mask_of_its_own_black_and_white_image_is_used() -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (2, 2, 5, 5))
    assert load_mask(image.copy(), image.size, image=image).sum() == 9
