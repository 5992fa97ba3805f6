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
    "text": "Text",
    "fake": "Fake",
}
TEXT_MODELS = ("lstm", "gru", "text_transformer")  # networks that read words
ENGINES = ("onnxruntime", "openvino", "torch")
FORMATS = ("qz", "onnx", "openvino")
CALIBRATED = ("ckpt", "qz")  # what quantizable calibrate writes
STYLES = ("qdq", "qonnx")
WEIGHT_STORAGE = ("int8", "int4")
PREPROCESS = ("outside", "in-graph")  # who normalizes an image
METHODS = ("uniform", "greedy", "integer", "fisher", "evolution", "reinforcement")
OBJECTIVES = ("accuracy", "agreement", "kl", "acr", "certified", "shifts", "proved")
COSTS = ("bops", "bytes", "mean_bits", "weight_bits", "activation_bits", "latency")
NETWORK_SETTINGS = {  # settings of training that `quantize` takes, under these names, and their groups
    **dict.fromkeys(("first_last", "norms", "exclude", "overrides"), "bits"),
    **dict.fromkeys(("per_channel", "attention", "embedding", "residual"), "quantizer"),
}
FOUND, UNIFORM = "found", "uniform"  # the assignments of a recipe: what a search chose, the line to beat
LOWEST_BITS = {  # quantizer=NAME: the smallest bit-width that it defines
    "lsq": 2,
    "lsq_plus": 2,
    "nested": 2,
    "dorefa": 1,
    "dorefa_rescaled": 1,
    "pact": 1,
    "sat": 1,
    "sat_original": 1,
    "sat_modified": 1,
}
