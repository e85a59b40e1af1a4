"""The model: bidirectional, packed = padded = single, logits only where asked, saved and loaded."""

from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_model
from transformers import AutoModelForMaskedLM

from mmada.errors import InputError
from mmada.model.mmada import MMaDAConfig, MMaDAModel
from mmada.model.released_names import to_released


@pytest.fixture(scope="module")
def model() -> MMaDAModel:
    torch.manual_seed(0)
    return tiny_model(50)


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (1, length), generator=torch.Generator().manual_seed(seed))


def test_every_position_attends_to_every_other(model: MMaDAModel) -> None:
    ids = tokens(9)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 50
    with torch.no_grad():
        assert not torch.allclose(model.hidden(ids)[0, 0], model.hidden(other)[0, 0])


def test_predict_returns_only_the_query_positions_and_vocabulary_slice(model: MMaDAModel) -> None:
    ids = tokens(12)
    at = torch.zeros_like(ids, dtype=torch.bool)
    at[0, [2, 7]] = True
    part = model.predict(ids, query_BL=at, vocab=range(10, 30))
    with torch.no_grad():
        whole = model(ids).logits
    assert torch.allclose(part, whole[0, [2, 7], 10:30], atol=1e-6)


def test_padding_and_packing_do_not_change_an_example(model: MMaDAModel) -> None:
    a, b = tokens(7), tokens(5, 1)
    with torch.no_grad():
        alone = [model.hidden(a)[0], model.hidden(b)[0]]
        padded = model.hidden(
            torch.cat([a, torch.nn.functional.pad(b, (0, 2), value=3)]),
            valid_BL=torch.tensor([[True] * 7, [True] * 5 + [False] * 2]),
        )
        packed = model.hidden(
            torch.cat([a, b, tokens(3, 2)], 1),
            segment_BL=torch.tensor([[1] * 7 + [2] * 5 + [0] * 3]),
            position_BL=torch.tensor([[*range(7), *range(5), *range(3)]]),
        )
    for single, in_padded, in_packed in ((alone[0], padded[0], packed[0, :7]), (alone[1], padded[1, :5], packed[0, 7:12])):
        assert torch.allclose(single, in_padded, atol=1e-5)
        assert torch.allclose(single, in_packed, atol=1e-5)


def test_written_out_attention_equals_the_fused_one(model: MMaDAModel) -> None:
    ids, segment = tokens(12), torch.tensor([[1] * 5 + [2] * 7])
    position = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        fused = model.hidden(ids, segment_BL=segment, position_BL=position)
        model.set_attn_implementation("eager")
        written = model.hidden(ids, segment_BL=segment, position_BL=position)
        model.set_attn_implementation("sdpa")
    assert torch.allclose(fused, written, atol=1e-5)


def test_saved_and_loaded_by_the_auto_classes(model: MMaDAModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, MMaDAModel)
    assert again.config.is_causal is False
    with torch.no_grad():
        assert torch.equal(again(tokens(6)).logits, model(tokens(6)).logits)


def written_out(model: MMaDAModel, ids_L: torch.Tensor) -> torch.Tensor:
    """LLaDA's forward as its paper has it, in float64 and by the released names."""
    c, w = model.config, {to_released(name): value.double() for name, value in model.state_dict().items()}
    size, length = c.hidden_size // c.num_attention_heads, len(ids_L)

    def norm(x_LD: torch.Tensor, name: str) -> torch.Tensor:
        return x_LD / (x_LD.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * w[f"{name}.weight"]

    def turned(x_HLd: torch.Tensor) -> torch.Tensor:
        rate = c.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
        a, b = x_HLd.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    x = w["model.transformer.wte.weight"][ids_L]
    for layer in range(c.num_hidden_layers):
        block = f"model.transformer.blocks.{layer}."
        n = norm(x, f"{block}attn_norm")
        q, k, v = ((n @ w[f"{block}{i}_proj.weight"].T).view(length, -1, size).transpose(0, 1) for i in "qkv")
        k, v = (each.repeat_interleave(len(q) // len(each), 0) for each in (k, v))
        looked = (turned(q) @ turned(k).mT / size**0.5).softmax(-1) @ v
        x = x + looked.transpose(0, 1).reshape(length, -1) @ w[f"{block}attn_out.weight"].T
        n = norm(x, f"{block}ff_norm")
        gate = torch.nn.functional.silu(n @ w[f"{block}ff_proj.weight"].T)
        x = x + (gate * (n @ w[f"{block}up_proj.weight"].T)) @ w[f"{block}ff_out.weight"].T
    return norm(x, "model.transformer.ln_f") @ w["model.transformer.ff_out.weight"].T


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 48, "n_heads": 6, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 40, "rope_theta": 1e4},
        {"d_model": 16, "n_heads": 8, "n_kv_heads": 8, "n_layers": 3, "mlp_hidden_size": 24, "rope_theta": 5e5},
        {"d_model": 64, "n_heads": 1, "n_kv_heads": 1, "n_layers": 4, "mlp_hidden_size": 100, "rms_norm_eps": 1e-6},
    ],
)
def test_other_sizes_and_grouped_heads_compute_what_is_written_out(sizes: dict[str, float]) -> None:
    torch.manual_seed(7)
    model = MMaDAModel(MMaDAConfig(vocab_size=50, **sizes)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 1.3 / parameter.shape[-1] ** 0.5)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(20)).logits[0].double(), written_out(model, tokens(20)[0]), atol=2e-5, rtol=0)


def test_labels_and_positions_are_used_and_a_tuple_on_request(model: MMaDAModel) -> None:
    ids, labels = tokens(6), tokens(6, 1)
    labels[0, :4] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
        expected = torch.nn.functional.cross_entropy(output.logits[0, 4:], labels[0, 4:])
        assert torch.allclose(output.loss, expected)
        loss, logits = model(ids, labels=labels, return_dict=False)
        assert torch.equal(loss, output.loss)
        assert torch.equal(logits, output.logits)
        plain = model(ids, token_type_ids=torch.zeros_like(ids), output_attentions=None)
        assert torch.equal(plain.logits, model(ids, position_ids=torch.arange(6)[None]).logits)
        assert not torch.allclose(plain.logits, model(ids, position_ids=2 * torch.arange(6)[None]).logits)


def test_what_is_not_done_is_named(model: MMaDAModel) -> None:
    with pytest.raises(InputError, match="output_hidden_states is not supported"):
        model(tokens(3), output_hidden_states=True)
    with pytest.raises(InputError, match="inputs_embeds is not supported"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    with pytest.raises(InputError, match="input_ids are missing"):
        model()
