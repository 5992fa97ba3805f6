"""Real integers: one file for every mode, run on real engines.

>>> from quantizable import deploy                                   # doctest: +SKIP
>>> deploy.save_qz(network, "model.qz")                              # doctest: +SKIP
>>> deploy.export_onnx(network, "model_4.onnx", bits=4)              # doctest: +SKIP
>>> session = deploy.Session("model.qz", engine="openvino")          # doctest: +SKIP
"""

from quantizable.deploy.export import export_onnx
from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.storage.load import load_qz
from quantizable.storage.qz import save_qz

__all__ = ["Guard", "Session", "export_onnx", "load_qz", "save_qz"]
