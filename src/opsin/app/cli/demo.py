"""`opsin demo`: the whole road on real pictures that came with the installation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import click

# Real colour photographs inside the two packages, by what a person would say is on them.
PHOTOGRAPHS = {
    "sklearn": {"datasets/images/china.jpg": "a Chinese palace", "datasets/images/flower.jpg": "a flower"},
    "skimage": {
        "data/chelsea.png": "a tabby cat",
        "data/coffee.png": "a cup of coffee",
        "data/rocket.jpg": "a rocket on its pad",
        "data/motorcycle_left.png": "a motorcycle in a garage",
        "data/astronaut.png": "an astronaut",
    },
}


@click.command()
@click.option("--out", default="", help="The run's folder; runs/digits-<number> by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
def command(out: str, as_json: bool) -> None:
    """Train on real digits and name what is on real photographs: no network, no data of your own.

    The textbook network learns scikit-learn's 1,797 handwritten digits from nothing; then EfficientNet-Lite0, whose
    weights came with the installation, names what is on photographs.
    """
    from ... import classifier, recipe, runs, sources
    from . import progress, render

    quiet = progress.console(stderr=as_json)
    quiet.print("1. The textbook network learns handwritten digits from nothing", style="bold")
    data = sources.read("digits")
    # The network has no norms: at 0.05 some seeds fail in bf16, at 0.02 validation is 0.978 to 0.989 on three in each.
    chosen = recipe.modern().set(network="textbook", size=32, lr=0.02, batch=64)
    folder = runs.create(data, chosen, origin=runs.Origin("digits"), out=out)
    divided, chosen = runs.reopen(folder, data)
    render.introduce(quiet, divided, chosen, folder)
    run = render.run(quiet, folder, divided, chosen)
    runs.report(folder, divided)
    quiet.print()
    render.scores(quiet, "test", run.scores["test"])
    quiet.print(f"\nall of it is in {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    quiet.print("\n2. EfficientNet-Lite0 (ImageNet, 1,000 classes) names what is on photographs", style="bold")
    clf = classifier.imagenet()
    named = {file.name: (said, classifier.predict(clf, file)) for file, said in _photographs().items()}
    for name, (said, prediction) in named.items():
        found = "   ".join(f"{label} {probability:.2f}" for label, probability in prediction.top(3))  # type: ignore[union-attr]
        quiet.print(f"{name:<20} {said + ':':<26} {found}")
    if as_json:
        photographs = {name: dict(prediction.top(5)) for name, (_, prediction) in named.items()}  # type: ignore[union-attr]
        click.echo(
            json.dumps({"run": str(folder), "scores": run.classifier.facts["scores"], "photographs": photographs})
        )
    quiet.print(
        "\nnow yours: a folder with one folder of pictures for each class, then\n"
        "  opsin train FOLDER                 a classifier fine-tuned from those ImageNet weights, tested\n"
        "  opsin predict last PICTURES        what it says of new pictures\n"
        "  opsin predict imagenet PICTURES    no training at all"
    )


def _photographs() -> dict[Path, str]:
    found = {}
    for package, files in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)  # found without importing it
        if spec and spec.origin:
            found.update({Path(spec.origin).parent / name: said for name, said in files.items()})
    return {file: said for file, said in found.items() if file.is_file()}
