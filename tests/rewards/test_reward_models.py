"""Rewards that are models: CLIP against transformers, ImageReward against a plain implementation, and weights that are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.completions import drawn, written

from mmada.errors import InputError
from mmada.nano.tasks import VISION
from mmada.rewards import ClipScore, ImageReward, RewardSum, WeightedReward, reward_of
from mmada.rewards.image_reward import layers
from mmada.tasks.task import Completion, Prompt
from mmada.tasks.text_to_image import TextToImage


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, tiny, in a folder as the real one's."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=[]).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1, "pad_token_id": len(names) - 1}
    text = {**sizes, **ends, "vocab_size": len(names), "max_position_embeddings": 12}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def test_clip_is_that_of_transformers(clip: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(8)]
    completions = [Completion(Prompt(f"a {c} star", TextToImage()), image=p) for c, p in zip("abcdefgh", pictures, strict=True)]
    found = ClipScore(str(clip))(completions)
    model, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    for completion, value in zip(completions, found, strict=True):
        pixels = (torch.from_numpy(np.array(completion.image)) / 255 - mean) / std
        with torch.no_grad():
            out = model(**tokenizer(completion.prompt.text, return_tensors="pt"), pixel_values=pixels.permute(2, 0, 1)[None])
        wanted = float(out.logits_per_image / model.logit_scale.detach().exp()) * 100
        assert value == pytest.approx(max(0.0, wanted), abs=1e-3)
    assert len(set(found)) > 2


def test_clip_of_an_answer_about_a_picture_and_of_none(clip: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    asked = Prompt("what?", VISION, images=(picture,))
    seen = ClipScore(str(clip))(
        [Completion(asked, answer="red"), Completion(asked, answer="x" * 50), Completion(asked, answer="")]
    )
    drawn = ClipScore(str(clip))([Completion(Prompt("red", TextToImage()), image=picture)])
    assert seen[0] == pytest.approx(drawn[0], abs=1e-4)
    scores = RewardSum([WeightedReward("clip", ClipScore(str(clip)), 0.1)])([written("RIGHT")])
    assert scores.failures[0].kind == "raised"
    with pytest.raises(InputError, match="does not exist"):
        ClipScore(str(clip / "nothing"))
    scores = RewardSum([WeightedReward("clip", ClipScore(str(clip.parent)), 0.1)])([Completion(asked, answer="red")])
    assert "cannot be read" in scores.failures[0].detail


def preference_weights() -> dict[str, torch.Tensor]:
    """A tiny random ImageReward, by its authors' names: width 128 for pictures, 64 for words, two layers each."""
    generator, made = torch.Generator().manual_seed(0), {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        made[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
        made[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 5

    def norm(name: str, width: int) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = torch.randn(2, width, generator=generator) / 3 + torch.tensor([[1.0], [0]])

    seeing, reading = "blip.visual_encoder", "blip.text_encoder"
    for name, shape in {"cls_token": (1, 1, 128), "pos_embed": (1, 17, 128), "patch_embed.proj.weight": (128, 3, 8, 8)}.items():
        made[f"{seeing}.{name}"] = torch.randn(shape, generator=generator) / 1000  # so small that the eps of a norm is seen
    made[f"{seeing}.patch_embed.proj.bias"] = torch.zeros(128)
    norm(f"{seeing}.norm", 128)
    for layer in (f"{seeing}.blocks.{i}" for i in range(2)):
        norm(f"{layer}.norm1", 128)
        norm(f"{layer}.norm2", 128)
        for name, shape in {"attn.qkv": (384, 128), "attn.proj": (128, 128), "mlp.fc1": (48, 128), "mlp.fc2": (128, 48)}.items():
            linear(f"{layer}.{name}", *shape)
    made[f"{reading}.embeddings.position_ids"] = torch.arange(40)[None]
    for name, rows in {"word_embeddings": 50, "position_embeddings": 40}.items():
        made[f"{reading}.embeddings.{name}.weight"] = torch.randn(rows, 64, generator=generator)
    norm(f"{reading}.embeddings.LayerNorm", 64)
    for layer in (f"{reading}.encoder.layer.{i}" for i in range(2)):
        for kind, width in {"attention": 64, "crossattention": 128}.items():
            for name, inputs in {"self.query": 64, "self.key": width, "self.value": width, "output.dense": 64}.items():
                linear(f"{layer}.{kind}.{name}", 64, inputs)
            norm(f"{layer}.{kind}.output.LayerNorm", 64)
        linear(f"{layer}.intermediate.dense", 48, 64)
        linear(f"{layer}.output.dense", 64, 48)
        norm(f"{layer}.output.LayerNorm", 64)
    for name, width in {"vision_proj": 128, "text_proj": 64}.items():
        linear(f"blip.{name}", 4, width)
    for number, shape in {0: (16, 64), 2: (8, 16), 4: (1, 8)}.items():
        linear(f"mlp.layers.{number}", *shape)
    return made


def plain_preference(made: dict[str, torch.Tensor], pixels_CHW: torch.Tensor, tokens_L: torch.Tensor) -> float:
    """The score of one picture for one prompt without padding, in float64, each part written out."""
    made = {name: value.double() if value.is_floating_point() else value for name, value in made.items()}

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ made[f"{name}.weight"].T + made[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True, correction=0) + eps).sqrt() * made[f"{name}.weight"] + made[f"{name}.bias"]

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        heads = [(q @ k.T / 8).softmax(-1) @ v for q, k, v in zip(*(x.split(64, -1) for x in (query, key, value)), strict=True)]
        return torch.cat(heads, -1)

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    see, read = "blip.visual_encoder", "blip.text_encoder"
    patches = pixels_CHW.double().unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).reshape(16, -1)
    seen = patches @ made[f"{see}.patch_embed.proj.weight"].flatten(1).T + made[f"{see}.patch_embed.proj.bias"]
    seen = torch.cat([made[f"{see}.cls_token"][0], seen]) + made[f"{see}.pos_embed"][0]
    for layer in (f"{see}.blocks.{i}" for i in range(2)):
        mixed = attend(*linear(f"{layer}.attn.qkv", norm(f"{layer}.norm1", seen, 1e-6)).split(128, -1))
        seen = seen + linear(f"{layer}.attn.proj", mixed)
        seen = seen + linear(f"{layer}.mlp.fc2", gelu(linear(f"{layer}.mlp.fc1", norm(f"{layer}.norm2", seen, 1e-6))))
    seen = norm(f"{see}.norm", seen, 1e-6)
    places = made[f"{read}.embeddings.position_embeddings.weight"][: len(tokens_L)]
    words = norm(f"{read}.embeddings.LayerNorm", made[f"{read}.embeddings.word_embeddings.weight"][tokens_L] + places, 1e-12)
    for layer in (f"{read}.encoder.layer.{i}" for i in range(2)):
        for kind in ("attention", "crossattention"):
            other, own = words if kind == "attention" else seen, f"{layer}.{kind}"
            mixed = attend(
                linear(f"{own}.self.query", words), linear(f"{own}.self.key", other), linear(f"{own}.self.value", other)
            )
            words = norm(f"{own}.output.LayerNorm", linear(f"{own}.output.dense", mixed) + words, 1e-12)
        inner = linear(f"{layer}.output.dense", gelu(linear(f"{layer}.intermediate.dense", words)))
        words = norm(f"{layer}.output.LayerNorm", inner + words, 1e-12)
    value = words[0]
    for number in (0, 2, 4):
        value = linear(f"mlp.layers.{number}", value)
    return (float(value) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights and a tokenizer, which says no more of itself than BERT's own does."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("image_reward")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "star", "circle", *map(str, range(40))]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    torch.save(preference_weights(), folder / "ImageReward.pt")
    return folder


def test_image_reward_is_that_of_its_authors(preference: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made, rng = preference_weights(), np.random.default_rng(0)
    words = ["a RED star", "a blue circle", "a red star " + " ".join(map(str, range(40)))]  # the last one is cut at 35 tokens
    tokens = [[2, 5, 6, 8, 3], [2, 5, 7, 9, 3], [2, 5, 6, 8, *range(10, 40), 3]]
    pictures = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in words]
    completions = [Completion(Prompt(w, TextToImage()), image=Image.fromarray(p)) for w, p in zip(words, pictures, strict=True)]
    found = reward_of("image_reward", {"image_reward": str(preference)})(completions)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    for picture, read, value in zip(pictures, tokens, found, strict=True):
        pixels = ((torch.from_numpy(picture) / 255 - mean) / std).permute(2, 0, 1)
        assert value == pytest.approx(plain_preference(made, pixels, torch.tensor(read)), abs=1e-4)
    assert max(found) - min(found) > 0.05
    save_file({name: value.contiguous() for name, value in made.items()}, tmp_path / "other.safetensors")
    entries = json.loads((preference / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(entries, key=entries.get)))
    assert ImageReward(str(tmp_path / "other.safetensors"))(completions) == pytest.approx(found)


def test_image_reward_that_cannot_be_read(preference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="judges pictures"):
        ImageReward(str(preference))([written("RIGHT")])
    with pytest.raises(InputError, match=r"has none of ImageReward\.pt"):
        ImageReward(str(tmp_path)).prepare()
    for nowhere in ("nobody/nothing", "~nobody/x", "/nowhere", "x" * 300, "a\0b"):
        with pytest.raises(InputError, match="does not exist" if nowhere[0] in "~/" else "give a hub id, or a folder or file"):
            ImageReward(nowhere).prepare()
    with pytest.raises(InputError, match="device 'nope' is not available"):
        ImageReward(str(preference), "nope").prepare()
    shutil.copy(preference / "tokenizer.json", tmp_path)
    made = preference_weights()
    for name, broken in {
        "none": {"a": torch.zeros(3)},
        "missing": {n: v for n, v in made.items() if "blocks.1.norm2" not in n},
        "no_head": {n: v for n, v in made.items() if "mlp.layers" not in n},
        "short_head": {n: v for n, v in made.items() if "mlp.layers.4" not in n},
        "gap_in_head": {n: v for n, v in made.items() if "mlp.layers.2" not in n},
        "unknown": made | {"blip.visual_encoder.head.weight": torch.zeros(2)},
        "shapes": made | {"mlp.layers.4.bias": torch.zeros(2)},
        "no_shape": made | {"blip.visual_encoder.patch_embed.proj.weight": torch.zeros(())},
        "no_places": made | {"blip.visual_encoder.pos_embed": torch.zeros(1, 1, 128)},
        "few_words": made | {"blip.text_encoder.embeddings.position_embeddings.weight": torch.zeros(20, 64)},
        "not_finite": made | {"mlp.layers.4.bias": torch.full((1,), torch.nan)},
    }.items():
        torch.save(broken, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match="not finite" if name == "not_finite" else "are not those of ImageReward"):
            ImageReward(str(tmp_path / f"{name}.pt")).prepare()
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="are damaged"):
        ImageReward(str(tmp_path / "bad.safetensors")).prepare()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer of image_reward"):
        ImageReward(str(tmp_path / "none.pt")).prepare()


def test_models_run_where_auto_says(clip: Path, preference: Path) -> None:
    for model, source in ((ClipScore, clip), (ImageReward, preference)):
        assert model(str(source), "auto")([drawn()]) == pytest.approx(model(str(source))([drawn()]), abs=1e-3)


def test_layers_of_blips_own_widths_are_as_many_as_it_has() -> None:
    names = {f"vision.encoder.layers.{i}.norm": torch.zeros(1) for i in range(23)}
    with pytest.raises(ValueError, match="23 layers under vision"):
        layers(names, "vision.encoder.layers", 1024)
    assert layers(names | {"vision.encoder.layers.23.norm": torch.zeros(1)}, "vision.encoder.layers", 1024) == 24


def test_models_of_rewards_are_named() -> None:
    assert reward_of("clip") == ClipScore()
    assert reward_of("clip", {"clip": "some/clip"}, "cuda") == ClipScore("some/clip", "cuda")
    assert reward_of("image_reward") == ImageReward()
