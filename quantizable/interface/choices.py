"""The words that options take, defined once and readable without torch.

What they name is in the modules that do the work; a test compares the two.
"""

from __future__ import annotations

DATA = {  # data=NAME: the class in quantizable.data
    "digits": "Digits",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "imagenet": "ImageNet",
    "folder": "Folder",
    "samson": "Scene",
    "fake": "Fake",
}
ENGINES = ("onnxruntime", "openvino", "torch")
FORMATS = ("qz", "onnx", "openvino")
STYLES = ("qdq", "qonnx")
WEIGHT_STORAGE = ("int8", "int4")
METHODS = ("uniform", "greedy", "integer", "evolution", "reinforcement")
OBJECTIVES = ("accuracy", "agreement", "acr")
COSTS = ("bops", "bytes", "latency")
