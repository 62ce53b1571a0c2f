"""Run an exported file on a device: onnxruntime and numpy are enough, there is no torch and no greg.

    python3 run.py model.onnx shot.pgm more.ppm          a line for each image: name, class, probability
    python3 run.py model.onnx images.npy                 (N, C, H, W) or (C, H, W), as they are in the data set
    ffmpeg -i shot.jpg -vf scale=224:224 -f image2pipe -vcodec ppm - | python3 run.py model.onnx -

PGM and PPM (binary, 8 bits) are what cameras, ffmpeg, djpeg and ImageMagick give without any library. How pixels are
normalised stands in the file itself, where `greg export` has written it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HEAD = re.compile(rb"\s*P([56])" + 3 * rb"\s+(?:#.*\s+)*(\d+)" + rb"\s")
"""Of a PGM or PPM: kind, width, height, largest value; comments between them."""
Array = Any


class Model:
    """An exported classifier, and what its file says of its input."""

    def __init__(self, path: str, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (entry,) = self.session.get_inputs()
        self.name = entry.name
        self.type = np.uint8 if entry.type == "tensor(uint8)" else np.float32
        said = self.session.get_modelmeta().custom_metadata_map
        shapes = json.loads(said.get("greg.input_shapes", "[]"))
        self.shape = tuple(shapes[0]) if shapes else None
        self.normalizes = "greg.mean" in said and said.get("greg.preprocessing", "none") == "none"
        if self.normalizes:
            self.scale = json.loads(said.get("greg.scale", repr(1 / 255)))
            self.mean, self.std = (
                np.array(json.loads(said[key]), np.float32)[:, None, None] for key in ("greg.mean", "greg.std")
            )

    def __call__(self, image: Array) -> Array:
        """Probabilities of the classes; the image is (C, H, W), with the data set's own values."""
        if self.shape is not None and image.shape != self.shape:
            raise ValueError(f"the image is {image.shape} (C, H, W), but the network takes {self.shape}")
        if self.normalizes:
            image = (image.astype(np.float32) * np.float32(self.scale) - self.mean) / self.std
        (logits, *_) = self.session.run(None, {self.name: image[None].astype(self.type)})
        powers = np.exp(logits[0] - logits[0].max())
        return powers / powers.sum()


def images(path: str) -> Iterator[tuple[str, Array]]:
    """Every image of a file, with a name; of standard input, if it is `-`."""
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    if path.endswith(".npy"):
        found = np.load(path)
        yield from [(path, found)] if found.ndim == 3 else ((f"{path}[{n}]", one) for n, one in enumerate(found))
        return
    number = at = 0
    while head := HEAD.match(data, at):
        channels = {b"5": 1, b"6": 3}[head[1]]
        width, height, largest = map(int, head.groups()[1:])
        at = head.end() + width * height * channels
        if largest > 255 or at > len(data):
            raise ValueError(f"{path} has 16 bits for each value" if largest > 255 else f"{path} is cut off")
        pixels = np.frombuffer(data[head.end() : at], np.uint8).reshape(height, width, channels)
        yield path if path != "-" else f"-[{number}]", pixels.transpose(2, 0, 1)
        number += 1
    if data[at:].strip() or not number:
        raise ValueError(f"{path} is no binary PGM or PPM, and no .npy")


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify images with an exported file.")
    parser.add_argument("model")
    parser.add_argument("images", nargs="+", help="PGM, PPM or NPY files; - for PGM or PPM on standard input")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        model = Model(given.model, given.threads)
        for path in given.images:
            for name, image in images(path):
                probabilities = model(image)
                best = int(probabilities.argmax())
                print(name, best, f"{probabilities[best]:.4f}", sep="\t", flush=True)
    except Exception as error:  # onnxruntime's own errors have no common type
        sys.exit(f"run.py: {error}")


if __name__ == "__main__":
    main()
