"""Draws the learning curve of a run and the output lengths of an evaluation.

python -m benchmarks.demo.plot runs/demo/log.jsonl eval.json benchmarks/results/demo
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def learning_curve(log: Path, out: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(steps, [line["loss"] for line in lines], label="training (of the moment's mix)")
    axes.plot(steps, [line["held_out_loss"] for line in lines], label="held out (averaged weights)")
    axes.set(xlabel="step", ylabel="loss per answer token, nats", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def length_distribution(report: Path, out: Path) -> None:
    results = json.loads(report.read_text())["tasks"]
    results.sort(key=lambda result: result["median_length"])
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.boxplot(
        [result["lengths"] for result in results],
        orientation="horizontal",
        tick_labels=[result["task"] for result in results],
        flierprops={"markersize": 2},
    )
    axes.set(xlabel="output tokens, working and end of turn included", xscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    learning_curve(options.log, options.folder / "learning-curve.png")
    length_distribution(options.report, options.folder / "lengths.png")


if __name__ == "__main__":
    main()
