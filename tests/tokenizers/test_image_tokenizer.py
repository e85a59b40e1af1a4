"""The image tokenizer: released shape, bit order, round trips, damage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers import TINY_IMAGE as TINY

from mmada.errors import InputError
from mmada.nano.world.render import render
from mmada.nano.world.scenes import SHAPES, Scene, Thing
from mmada.pipeline.loading import find_folder
from mmada.tokenizers.image import ImageTokenizer, to_images, to_pixels
from mmada.tokenizers.magvit import RELEASED_IMAGE, SMALL_IMAGE, norm_of
from mmada.training.image_tokenizer import entropy_losses


@pytest.fixture(scope="module")
def tiny() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(TINY).eval()


def test_released_shape_has_the_released_parameters_and_keys() -> None:
    with torch.device("meta"):
        released = ImageTokenizer(RELEASED_IMAGE)
    assert sum(p.numel() for p in released.parameters()) == 95_387_004
    keys = released.state_dict()
    assert len(keys) == 382
    assert keys["decoder.up.3.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    assert keys["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert keys["quantize.embedding"].shape == (8192, 13)
    assert RELEASED_IMAGE.downsample == 16


def test_channel_zero_is_the_most_significant_bit_and_zero_is_negative(tiny: ImageTokenizer) -> None:
    latent = torch.full((1, 5, 1, 2), -1.0)
    latent[0, 0, 0, 0] = 3.0
    latent[0, 4, 0, 1] = 1e-3
    latent[0, 3, 0, 1] = 0.0
    codes = tiny.quantize.codes(latent)
    assert codes.tolist() == [[[16, 1]]]
    assert tiny.quantize.latent(codes)[0, :, 0, 0].tolist() == [1, -1, -1, -1, -1]
    assert torch.equal(tiny.quantize.codes(tiny.quantize.latent(torch.arange(32).view(1, 4, 8))), torch.arange(32).view(1, 4, 8))


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (72, 8)])
def test_any_multiple_of_the_downsampling_goes_through(tiny: ImageTokenizer, size: tuple[int, int]) -> None:
    codes = tiny.encode(torch.rand(2, 3, *size) * 2 - 1)
    assert codes.shape == (2, size[0] // 8, size[1] // 8)
    assert tiny.decode(codes).shape == (2, 3, *size)


def test_wrong_shapes_are_named(tiny: ImageTokenizer) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        tiny.encode(torch.zeros(1, 3, 60, 64))
    with pytest.raises(InputError, match=r"codes must be"):
        tiny.decode(torch.zeros(1, 64, dtype=torch.long))


def test_quantisation_passes_the_gradient_and_softens_on_request(tiny: ImageTokenizer) -> None:
    latent = torch.randn(1, 5, 2, 2, requires_grad=True)
    hard = tiny.quantize(latent)
    assert set(hard.quantised.detach().unique().tolist()) == {-1.0, 1.0}
    hard.quantised.sum().backward()
    assert torch.allclose(latent.grad, 1 - torch.tanh(latent.detach()) ** 2)
    assert torch.allclose(tiny.quantize(latent, 0.0).quantised, torch.tanh(latent))


def test_entropies_at_their_extremes(tiny: ImageTokenizer) -> None:
    codes = torch.arange(32).view(1, 4, 8)
    sure = tiny.quantize.latent(codes) * 10
    each, mean = entropy_losses(sure, tiny.quantize.embedding, sharpness=2.0)
    assert each.item() == pytest.approx(0, abs=1e-3)
    assert mean.item() == pytest.approx(np.log(32), abs=1e-3)
    each, _ = entropy_losses(sure * 0, tiny.quantize.embedding, sharpness=2.0)
    assert each.item() == pytest.approx(5 * np.log(2), abs=1e-3)


def test_saved_loaded_and_damaged(tiny: ImageTokenizer, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    again = ImageTokenizer.load(tmp_path)
    assert again.config == TINY
    assert (again.encode(pixels) == tiny.encode(pixels)).float().mean() > 0.9  # stored in bfloat16
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        ImageTokenizer.load(tmp_path)
    with pytest.raises(InputError, match=r"lacks config\.json"):
        ImageTokenizer.load(tmp_path / "nothing")


def test_pixel_norm_looks_at_one_pixel_and_group_norm_at_all() -> None:
    picture = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    other = picture.clone()
    other[..., 5, 5] += 3.0
    pixel, group = (norm_of(replace(TINY, norm=kind, groups=4), 8) for kind in ("pixel", "group"))
    assert torch.equal(pixel(picture)[..., :5, :5], pixel(other)[..., :5, :5])
    assert not torch.allclose(group(picture)[..., :5, :5], group(other)[..., :5, :5])
    alone = torch.nn.functional.layer_norm(picture[0, :, 2, 3], (8,), eps=1e-6)
    assert torch.allclose(pixel(picture)[0, :, 2, 3], alone, atol=1e-5)
    assert not any("attn" in key for key in ImageTokenizer(replace(TINY, attention=False)).state_dict())


def test_bundled_codes_of_plain_background_do_not_depend_on_what_stands_far_away() -> None:
    bundled = ImageTokenizer.load(find_folder("nano") / "image_tokenizer")
    scenes = [Scene((Thing(0, 0, shape, color),)) for color in ("red", "blue", "white") for shape in SHAPES]
    pictures = np.stack([render(s, np.random.default_rng(0)) for s in scenes] + [render(Scene(()), np.random.default_rng(0))])
    far = bundled.encode(to_pixels(pictures))[:, 5:, 5:]
    assert (far == far[-1]).all()


def test_configurations_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="norm of the image tokenizer"):
        replace(SMALL_IMAGE, norm="batch")
    with pytest.raises(InputError, match="same number of levels"):
        replace(SMALL_IMAGE, encoder_mult=(1, 2))
    with pytest.raises(InputError, match="code_bits"):
        replace(SMALL_IMAGE, code_bits=0)
    with pytest.raises(InputError, match="multiple of 8"):
        replace(SMALL_IMAGE, image_size=60)
    with pytest.raises(InputError, match="channels of the image tokenizer must be a whole number"):
        replace(SMALL_IMAGE, channels=-1)
    with pytest.raises(InputError, match="channels 8 of the image tokenizer is not a multiple of its groups 7"):
        replace(TINY, groups=7)
    with pytest.raises(InputError, match="encoder_mult of the image tokenizer must list a number for each level"):
        replace(TINY, encoder_mult=(), decoder_mult=(), encoder_blocks=(), decoder_blocks=())
    with pytest.raises(InputError, match="decoder_mult of the image tokenizer must be a whole number"):
        replace(TINY, decoder_mult=(1, 1, 0, 2))


def test_weights_that_spell_out_another_order_of_bits_are_refused(tiny: ImageTokenizer, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    path = tmp_path / "model.safetensors"
    state, powers = load_file(path), torch.tensor([16, 8, 4, 2, 1])
    save_file({**state, "quantize.power_vals": powers}, path)
    ImageTokenizer.load(tmp_path)
    save_file({**state, "quantize.power_vals": powers.flip(0)}, path)
    with pytest.raises(InputError, match=r"quantize\.power_vals \[1, 2, 4, 8, 16\], expected \[16, 8, 4, 2, 1\]"):
        ImageTokenizer.load(tmp_path)


def test_pixels_and_pictures_are_inverse() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    back = to_images(to_pixels(pictures))
    assert isinstance(back[0], Image.Image)
    assert np.array_equal(np.stack([np.asarray(p) for p in back]), pictures)
