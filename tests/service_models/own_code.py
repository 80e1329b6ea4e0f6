"""A network of the operator's own code, as the tests write it into a folder."""

VIEW = "preprocessing = { input_size = 48, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }"
CODE = """
import torch
from torch import nn
from helper import WIDTH


class Net(nn.Module):
    def __init__(self, classes=5, ending="nothing"):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(),
        )
        self.fc = nn.Linear(WIDTH, classes)
        self.ending = ending

    def logits(self, x):
        return self.fc(self.features(x).mean((2, 3)))

    def forward(self, x):
        y = self.logits(x)
        if self.ending == "softmax":
            return y.softmax(1)
        if self.ending == "log_softmax":
            return y.log_softmax(1)
        if self.ending == "sigmoid":
            return y.sigmoid()
        if self.ending == "logsigmoid":
            return nn.functional.logsigmoid(y)
        if self.ending == "dict":
            return {"features": x, "scores": {"logits": y}}
        if self.ending == "tuple":
            return x, y
        return y


def build(**arguments):
    torch.manual_seed(3)
    return Net(**arguments)


def broken():
    raise ValueError("no luck")


def nothing():
    return 3
"""
