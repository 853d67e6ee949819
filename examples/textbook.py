"""The text's whole program, made right, in plain torch: read it from top to bottom.

    python examples/textbook.py cifar10/ --size 32          a folder with train/ and test/, a folder a class

It prepares pictures, trains a convolutional network for ten epochs, and tests it once. Where the text contradicts
itself: it resizes to 224 while its layers need 64 (here the first fully connected layer follows the size); it never
makes its training loader (here it is made); it tests with the training augmentation (here the test is left alone).
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


def transforms(size: int, train: bool) -> v2.Compose:
    """Picture → normalised tensor (3, size, size); training flips and turns at random, testing never does."""
    random = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomRotation(20)] if train else []
    same = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose([v2.ToImage(), v2.Resize((size, size), antialias=True), *random, *same])


class Network(nn.Module):
    """Three times convolution, ReLU and pooling; then three fully connected layers."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(256 * (size // 8) ** 2, 1024), nn.ReLU()),
            *(nn.Linear(1024, 512), nn.ReLU()),
            nn.Linear(512, classes),  # logits: the softmax is inside the loss
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) → (B, classes)."""
        return self.classifier(self.features(x))


def train(network: nn.Module, loader: DataLoader, epochs: int, rate: float = 0.001) -> None:
    """Minimise the cross-entropy by stochastic gradient descent with momentum."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        print(f"epoch {epoch + 1}/{epochs}   loss {total / len(loader.dataset):.4f}")


@torch.no_grad()
def test(network: nn.Module, loader: DataLoader) -> float:
    """The share of pictures whose most probable class is the true one."""
    network.eval()
    right = sum((network(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return right / len(loader.dataset)


def main(arguments: list[str] | None = None) -> float:
    """Load, train, test; the accuracy on the test pictures."""
    parser = argparse.ArgumentParser(description="Train and test the text's network.")
    parser.add_argument("folder", help="with train/ and test/, each with one folder a class")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    training = datasets.ImageFolder(f"{options.folder}/train", transforms(options.size, train=True))
    testing = datasets.ImageFolder(f"{options.folder}/test", transforms(options.size, train=False))
    if training.classes != testing.classes:
        raise SystemExit(f"train has {training.classes}, test has {testing.classes}: numbers would not mean the same")
    network = Network(len(training.classes), options.size)
    train(network, DataLoader(training, batch_size=64, shuffle=True), options.epochs, options.rate)
    accuracy = test(network, DataLoader(testing, batch_size=64))
    print(f"test accuracy {accuracy:.4f} on {len(testing)} pictures")
    return accuracy


if __name__ == "__main__":
    main()
