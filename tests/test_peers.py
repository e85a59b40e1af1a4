"""The comparison with peers runs at small sizes, and bad input is one sentence and status 2."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks import peers
from benchmarks.peers_llama import gguf_name, interleaved

TINY = ["--width=32", "--layers=1", "--heads=2", "--mlp=32", "--length=8", "--steps=2", "--prompt=4", "--rounds=1", "--threads=1"]


@pytest.mark.slow
def test_exact_float32_gives_the_tokens_of_the_plain_sampler(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    assert peers.main([*TINY, "--types", "float32", f"--out={out}", f"--folder={tmp_path / 'weights'}"]) == 0
    kept = json.loads(out.read_text())
    rows = {row["job"]: row for row in kept["rows"]}
    assert list(rows) == ["LLaDA float32", "mmada float32 exact", "mmada float32 block"]
    assert rows["mmada float32 exact"]["tokens_equal"] == rows["mmada float32 exact"]["tokens"] == 8
    assert [pair["job"] for pair in kept["pairs"]] == ["mmada float32 exact", "mmada float32 block"]
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--llama=nowhere"], "llama 'nowhere' does not exist"),
        (["--llama=."], "lacks the package llama_cpp"),
        (["--fast-dllm=."], "lacks llada/generate.py"),
        (["--types=int3"], "types must be one of"),
        (["--steps=3", "--length=64"], "whole blocks"),
        (["--width=50"], "multiple of twice the number of heads"),
        (["--out=nowhere/peers.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert peers.main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1


def test_the_layout_of_llama_cpp() -> None:
    assert gguf_name("model.transformer.blocks.3.ff_out.weight") == "blk.3.ffn_down.weight"
    assert gguf_name("model.transformer.ff_out.weight") == "output.weight"
    assert interleaved(torch.arange(8)[:, None], 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
