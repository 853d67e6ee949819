"""fastai's `fine_tune(1)` on the same weights. Usage: FOLDER SPLIT.CSV."""

import sys

import pandas as pd
import torch
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    ImageBlock,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    vision_learner,
)
from weights import lite0

folder, split_file = sys.argv[1:]
rows = pd.read_csv(split_file)
rows["is_valid"] = rows.split == "val"
block = DataBlock(
    (ImageBlock, CategoryBlock),
    get_x=ColReader("record", pref=f"{folder}/"),
    get_y=ColReader("class"),
    splitter=ColSplitter(),
    item_tfms=Resize(224),
    batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],  # the weights' own
)
data = block.dataloaders(rows[rows.split != "test"], bs=64, num_workers=2)
learner = vision_learner(data, "tf_efficientnet_lite0", pretrained=False, metrics=accuracy)
lite0(learner.model[0].model)
learner.fine_tune(1)
test = rows[rows.split == "test"]
answers, _ = learner.get_preds(dl=data.test_dl(test))
expected = torch.tensor([list(data.vocab).index(name) for name in test["class"]])
print(f"accuracy {(answers.argmax(1) == expected).float().mean():.4f}")
print(f"train {(rows.split == 'train').sum()}, test {len(test)}")
