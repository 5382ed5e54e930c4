"""How far the pixels of transformers' two backends are apart: Pillow's from torchvision's, family by family.

    python benchmarks/vision_backends.py [--photographs 30]

Each family's own image processor, as it is without a checkpoint, reads the first photographs of `clothing` and
`coco_captions` and one picture of noise (480 × 640 pixels, every value drawn apart: the hardest to enlarge or shrink).
Writes ``benchmarks/results/vision_backends.json``: the largest and the mean difference of a value as the model takes
it, and the standard deviation of the values themselves; what was measured on as many photographs and the same versions
stays. Needs torchvision; says so where it is missing, and writes nothing. Beside a torch without CUDA, torchvision's
build for CUDA can be imported where the operators ``torchvision::nms`` and ``torchvision::qnms`` have been defined by
``torch.library`` before: pictures are read without them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luthier.data.media.pictures import decode
from luthier.models.vision.pixels import made_by, open_pixels

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
FAMILIES: dict[str, str] = {
    "CLIP, LLaVA": "CLIPImageProcessor", "ViT, VisionEncoderDecoder": "ViTImageProcessor",
    "SigLIP, PaliGemma": "SiglipImageProcessor", "DINOv2": "BitImageProcessor", "DINOv3": "DINOv3ViTImageProcessor",
    "BLIP-2, InstructBLIP": "BlipImageProcessor", "Donut": "DonutImageProcessor",
    "MobileNet v1": "MobileNetV1ImageProcessor", "MobileNet v2": "MobileNetV2ImageProcessor",
    "Idefics3": "Idefics3ImageProcessor", "SmolVLM": "SmolVLMImageProcessor", "Gemma 3": "Gemma3ImageProcessor",
    "Qwen2-VL, Qwen2.5-VL, Qwen3-VL": "Qwen2VLImageProcessor", "ConvNeXt": "ConvNextImageProcessor",
}  # fmt: skip


def pictures(count: int) -> dict[str, list[Image.Image]]:
    files = {
        name: sorted(path for path in (SHARED / "data" / name).rglob("*.jpg"))[:count]
        for name in ("clothing", "coco_captions")
    }
    found = {name: [decode(str(path))[0] for path in some] for name, some in files.items()}
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    return found | {"noise": [Image.fromarray(noise)]}


def opened(kind: str, backend: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind}))
        return open_pixels(folder, backend)


def measure(kind: str, shown: dict[str, list[Image.Image]]) -> dict[str, Any]:
    pil, other = opened(kind, "pil"), opened(kind, "torchvision")
    if (made_by(pil), made_by(other)) != ("pil", "torchvision"):
        return {"alone": made_by(pil)}
    told: dict[str, Any] = {}
    for name, some in shown.items():
        largest, total, values, squares, count = 0.0, 0.0, 0.0, 0.0, 0
        for image in some:
            ours, theirs = (
                np.asarray(one(image, return_tensors="np")["pixel_values"], np.float64) for one in (pil, other)
            )
            if ours.shape != theirs.shape:
                return {"shapes": [list(ours.shape), list(theirs.shape)]}
            apart = np.abs(ours - theirs)
            largest, total, count = max(largest, float(apart.max())), total + float(apart.sum()), count + apart.size
            values, squares = values + float(ours.sum()), squares + float(np.square(ours).sum())
        spread = (squares / count - (values / count) ** 2) ** 0.5
        told[name] = {"largest": largest, "mean": total / count, "spread": round(spread, 3), "pictures": len(some)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=30)
    given = parser.parse_args()
    if find_spec("torchvision") is None:
        sys.exit("this needs torchvision, which is not installed: nothing was measured")
    shown = pictures(given.photographs)
    packages = {name: version(name) for name in ("torch", "transformers", "torchvision", "pillow", "numpy")}
    beside = {"photographs": given.photographs, "versions": {"python": platform.python_version(), **packages}}
    path = HERE / "results" / "vision_backends.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    table = before["families"] if {key: before.get(key) for key in beside} == beside else {}
    for family, kind in FAMILIES.items():
        if family not in table:
            table[family] = measure(kind, shown)
            print(family, json.dumps(table[family]), flush=True)
            path.write_text(json.dumps(beside | {"families": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
