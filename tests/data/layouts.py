"""Five rows of every set of the paper in the layout that people have on their disks, with the traps of each."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "green", "blue", "white", "black")


def picture(path: Path, colour: str = "red", kind: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, kind or None)
    return path


def encoded(colour: str = "red", kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def document(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, rows: list[dict[str, Any]], features: Mapping[str, Any] | None = None) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def texts_and_classes(folder: Path) -> None:
    rows = [{"content": f"page {i}", "url": "http://x", "timestamp": "2013"} for i in range(5)]
    parquet(folder / "refinedweb/data-00000.parquet", rows)
    synsets = ["n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus"]
    (folder / "imagenet").mkdir(parents=True)
    (folder / "imagenet/synset_words.txt").write_text("\n".join(synsets) + "\n")
    for i in range(5):
        synset = synsets[i % 2].split()[0]
        picture(folder / f"imagenet/train/{synset}/{synset}_{i}.JPEG", COLOURS[i], "JPEG")
    document(
        folder / "alpaca_data.json", [{"instruction": f"do {i}", "input": "" if i else "this", "output": "ok"} for i in range(5)]
    )
    (folder / "captions.txt").write_text("".join(f"a thing {i}\n" for i in range(5)))


def captioned(folder: Path) -> None:
    cc12m = {f"{i:09d}.{suffix}": value for i in range(5) for suffix, value in
             (("jpg", encoded()), ("txt", f"<person> and thing {i}"), ("json", json.dumps({"key": i})))}  # fmt: skip
    tar(folder / "cc12m/cc12m-train-0000.tar", cc12m)
    # Masks come as .json, captions are files of their own, by the key; a caption more than there are pictures.
    tar(folder / "sam/sa_000000.tar", {f"./sa_{i}.{s}": v for i in range(1, 6) for s, v in (("jpg", encoded()), ("json", "{}"))})
    for i in range(1, 7):
        (folder / "sam_captions").mkdir(exist_ok=True)
        (folder / f"sam_captions/sa_{i}.txt").write_text(f"caption of {i}")
    laion: dict[str, bytes | str] = {}
    for i in range(5):  # 0 has a better caption, 1 an empty one, 4 is too small
        about = {"status": "success", "width": 200 if i == 4 else 300} | (
            {"recaption": "better"} if i == 0 else {"recaption": ""}
        )
        laion |= {f"00000000{i}.jpg": encoded(), f"00000000{i}.txt": f"alt {i}", f"00000000{i}.json": json.dumps(about)}
    tar(folder / "laion/00000.tar", laion)
    parquet(folder / "laion/00000.parquet", [{"key": f"00000000{i}", "status": "success"} for i in range(5)])
    for i in range(5):
        picture(folder / f"journeydb/imgs/00{i}/p.jpg")
    lines(folder / "journeydb/train_anno.jsonl", *({"img_path": f"./00{i}/p.jpg", "prompt": f"a prompt {i} --v 5",
          "Task2": {"Caption": f"seen {i}"} if i else None} for i in range(5)))  # fmt: skip


def instructions(folder: Path) -> None:
    rows = [
        {"id": "1", "image": "coco/train2017/1.jpg", "conversations": turns("<image>\nWhat?", "One.")},
        {"id": "2", "image": "gqa/images/2.jpg", "conversations": turns("What?\n<image>", "Two.")},
        {"id": "3", "image": "ocr_vqa/images/3.jpg", "conversations": turns("<image>\nWhat?", "Three.")},  # the file is 3.gif
        {"id": "4", "image": "ocr_vqa/images/4.jpg", "conversations": turns("<image>\nWhat?", "Four.")},  # a GIF named .jpg
        {"id": "sharegpt", "conversations": turns("Hi", "Hello!") + turns("Bye", "Bye!")},
    ]
    document(folder / "llava/llava_v1_5_mix665k.json", rows)
    for name, kind in (("coco/train2017/1.jpg", "JPEG"), ("gqa/images/2.jpg", "JPEG"), ("ocr_vqa/images/3.gif", "GIF"),
                       ("ocr_vqa/images/4.jpg", "GIF")):  # fmt: skip
        picture(folder / "llava" / name, kind=kind)
    document(folder / "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
             [{"id": f"{i}", "image": f"0000{i}/a.jpg", "conversations": turns("Render a summary.\n<image>", f"a cat {i}")}
              for i in range(5)])  # fmt: skip
    for i in range(5):
        picture(folder / f"LLaVA-Pretrain/0000{i}/a.jpg")


def geometry(folder: Path) -> None:
    question = ("<image>\nFirst perform reasoning, then finally select the question from the choices in the following format: "
                "Answer: xxx.\nQuestion:What is x?\nChoices:\nA:10\nB:20")  # fmt: skip
    for i in range(5):
        picture(folder / f"Geo170K/images/geo3k/{i}.png")
    document(folder / "Geo170K/qa_tuning.json",
             [{"image": f"geo3k/{i}.png", "conversations": turns(question, "x is 20.\nAnswer:B")} for i in range(5)])  # fmt: skip
    alignment = [{"image": f"geo3k/{i}.png", "conversations": turns("Describe.\n<image>", "a triangle")} for i in range(5)]
    document(folder / "Geo170K/alignment.json", alignment)
    parquet(folder / "LLaVA-OneVision-Data/geo170k(qa)/train-0.parquet",
            [{"id": f"{i}", "image": {"bytes": encoded(), "path": "x.png"}, "conversations": turns("<image>\nx?", "B"),
              "data_source": "geo170k(qa)"} for i in range(5)])  # fmt: skip
    program = [{"function": "scene", "value_inputs": []}, {"function": "count", "value_inputs": []}]
    document(folder / "CLEVR_v1.0/questions/CLEVR_train_questions.json", {"info": {"split": "train"}, "questions": [
        {"question": f"How many {i}?", "answer": "3", "image_filename": f"CLEVR_train_00000{i}.png", "split": "train",
         "image_index": i, "program": program, "question_index": i, "question_family_index": 1} for i in range(5)]})  # fmt: skip
    for i in range(5):
        picture(folder / f"CLEVR_v1.0/images/train/CLEVR_train_00000{i}.png")
    parquet(folder / "clevr_cogen_a_train/data/train-0.parquet",
            [{"image": {"bytes": encoded(kind="PNG"), "path": None}, "problem": "How many?", "solution": "<answer> 3 </answer>"}
             for _ in range(5)])  # fmt: skip


def mathematics(folder: Path) -> None:
    rows = [{"question": f"{i} plus 1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(5)]
    parquet(folder / "gsm8k/main/train-00000.parquet", rows)
    lines(folder / "LIMO/limo.jsonl",
          *({"question": f"q {i}", "solution": f"so \\boxed{{{i}}}", "answer": str(i)} for i in range(5)))  # fmt: skip
    parquet(folder / "s1K-1.1/data/train-0.parquet",
            [{"question": f"q {i}", "solution": str(i), "deepseek_thinking_trajectory": "hm", "deepseek_attempt": str(i),
              "metadata": "{}"} for i in range(5)])  # fmt: skip
    response = "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>4<|end_of_solution|>"
    parquet(folder / "OpenThoughts-114k/data/train-0.parquet",
            [{"system": "s", "conversations": turns(f"q {i}", response)} for i in range(5)])  # fmt: skip
    lines(folder / "AceMath/math_sft.jsonl",
          *({"messages": talk(f"q {i}", "work \\boxed{4}"), "answer": "4"} for i in range(5)))  # fmt: skip
    document(folder / "ReasonFlux/sft.json",
             [{"instruction": f"q {i}", "input": "", "output": "<think>hm</think> 4"} for i in range(5)])  # fmt: skip


def everything(folder: Path) -> Path:
    for make in (texts_and_classes, captioned, instructions, geometry, mathematics):
        make(folder)
    return folder
