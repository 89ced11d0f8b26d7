"""How the weights of the digit classifier were made, with the record beside them:

python -m tinygen.evaluation.train_classifier --data-dir FOLDER

FOLDER is where MNIST lies, or is put. The same command gives the same weights, up to the machine's rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinygen import cross_entropy, data, optim
from tinygen.data import Split
from tinygen.evaluation.classifier import DIGITS, SIDE, WEIGHTS, DigitClassifier
from tinygen.kernels.memory import keep_freed
from tinygen.nn.serialize import save_arrays, write_atomically

SEED, BATCH, LR, WEIGHT_DECAY = 1998, 100, 2e-3, 1e-2
SHIFT = 2  # pixels, each way
SPOILT = 24  # images in a batch, besides its digits, that are none
HELD_OUT_SEED = 20110411  # of the bits that the errors on binary digits are measured with
COMMAND = "python -m tinygen.evaluation.train_classifier"


def without(split: Split, others: np.ndarray) -> Split:
    """`split` without the images that are among `others` (n, 28, 28)."""
    known = {image.tobytes() for image in others}
    kept = [image.tobytes() not in known for image in split.images]
    return Split(split.images[kept], split.labels[kept])


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 images (n, 28, 28) as float32 (n, 784) in [0, 1]: each moved by up to 2 pixels, every other one drawn as bits."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, len(images)))
    x = windows[np.arange(len(images)), down, right].reshape(len(images), -1)
    grey = x[::2].astype(np.float32) / np.float32(255)
    return np.concatenate([grey, data.binarize(x[1::2], "dynamic", rng)])


def spoilt(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Examples x (n, 784) made into what is no digit any more, a third of them in each of three ways.

    All pixels of an image change places; each pixel is taken from another image, so that only its frequency is right; the
    sixteen squares of 7 x 7 pixels change places.
    """
    first, second, third = np.array_split(x, 3)
    squares = third.reshape(-1, 4, 7, 4, 7).swapaxes(2, 3).reshape(len(third), 16, 7, 7)
    order = rng.permuted(np.tile(np.arange(16), (len(third), 1)), axis=1)
    moved = np.take_along_axis(squares, order[:, :, None, None], axis=1)
    moved = moved.reshape(-1, 4, 4, 7, 7).swapaxes(2, 3).reshape(third.shape)
    return np.concatenate([rng.permuted(first, axis=1), rng.permuted(second, axis=0), moved])


def train(split: Split, epochs: int, rng: np.random.Generator) -> DigitClassifier:
    """A classifier trained on `split` by AdamW, its rate lowered to 0 along a cosine; one line for each epoch."""
    classifier = DigitClassifier(rng=rng)
    optimizer = optim.AdamW(classifier.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    steps, step = epochs * (len(split) // BATCH), 0
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in data.batches(split, BATCH, rng, drop_last=True):
            optimizer.lr = LR * optim.cosine_decay(step, steps)
            x, labels = augmented(split.images[chosen], rng), split.labels[chosen]
            others = spoilt(x[rng.permutation(len(x))[:SPOILT]], rng)
            targets = np.concatenate([labels[::2], labels[1::2], np.full(len(others), DIGITS)])
            loss = cross_entropy(classifier(np.concatenate([x, others])), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, step = total + loss.item(), step + 1
        print(f"epoch {epoch}/{epochs}  loss {total / (len(split) // BATCH):.4f} nats", flush=True)
    return classifier.eval()


def errors(classifier: DigitClassifier, split: Split) -> dict[str, Any]:
    """The shares of wrong answers on grey digits and on digits drawn as bits, with the number of digits."""
    flat = split.images.reshape(len(split), -1)
    bits = data.binarize(flat, "dynamic", np.random.default_rng(HELD_OUT_SEED))
    grey = flat.astype(np.float32) / np.float32(255)
    return {
        "digits": len(split),
        "grey": classifier.error(grey, split.labels),
        "binary": classifier.error(bits, split.labels),
    }


def main() -> None:
    """Train, measure the weights as they are stored (in half precision), write them and the record."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Train the digit classifier of tinygen.evaluation.")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where to look for MNIST first, and to put it")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="FILE.safetensors", help="default: the package's own")
    options = parser.parse_args()
    keep_freed()
    mnist, embedded = data.load("mnist", options.data_dir), data.load("mnist5k")
    every_embedded = np.concatenate([embedded.train.images, embedded.valid.images, embedded.test.images])
    split = without(mnist.train, every_embedded)
    started = time.perf_counter()
    classifier = train(split, options.epochs, np.random.default_rng(SEED))
    seconds = time.perf_counter() - started
    stored = {name: array.astype(np.float16) for name, array in classifier.state_dict().items()}
    classifier.load_state_dict(stored)
    record = {
        "command": f"{COMMAND} --epochs {options.epochs}",
        "trained_on": f"{len(split)} of the {len(mnist.train)} training digits of MNIST: without those that are in mnist5k",
        "augmentation": f"moved by up to {SHIFT} pixels each way; every other digit drawn as bits from its grey values",
        "no_digits": f"{SPOILT} for every {BATCH} digits: pixels or squares that changed places, pixels of different digits",
        "seed": SEED,
        "parameters": sum(parameter.size for parameter in classifier.parameters()),
        "weights": "float16",
        "seconds": round(seconds, 1),
        "errors": {
            "mnist test": errors(classifier, mnist.test),
            "mnist valid": errors(classifier, without(mnist.valid, every_embedded)),
            "mnist5k test": errors(classifier, embedded.test),
        },
    }
    save_arrays(options.out, stored)
    write_atomically(options.out.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    for name, found in record["errors"].items():
        print(
            f"{name}: {100 * found['grey']:.2f}% of {found['digits']} grey digits misread, {100 * found['binary']:.2f}% as bits"
        )


if __name__ == "__main__":
    main()
