"""Real integers: one file for every mode, run on real engines.

>>> from quantizable import deploy                                   # doctest: +SKIP
>>> deploy.save_qz(network, "model.qz")                              # doctest: +SKIP
>>> deploy.export_onnx(network, "model_4.onnx", bits=4)              # doctest: +SKIP
>>> session = deploy.Session("model.qz", engine="openvino")          # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from quantizable.interface.lazy import lazy

if TYPE_CHECKING:
    from quantizable.deploy.export import export_onnx
    from quantizable.deploy.guard import Guard
    from quantizable.deploy.session import Session
    from quantizable.storage.load import load_qz
    from quantizable.storage.preprocessing import read_images, read_texts
    from quantizable.storage.qz import save_qz
    from quantizable.storage.signature import describe_inputs

# imported when asked for: loading a network needs no engine, and a command line with a typo not even torch
__getattr__, __dir__ = lazy(
    __name__,
    {
        "Guard": "guard",
        "Session": "session",
        "describe_inputs": "quantizable.storage.signature",
        "export_onnx": "export",
        "load_qz": "quantizable.storage.load",
        "read_images": "quantizable.storage.preprocessing",
        "read_texts": "quantizable.storage.preprocessing",
        "save_qz": "quantizable.storage.qz",
    },
)

__all__ = [
    "Guard",
    "Session",
    "describe_inputs",
    "export_onnx",
    "load_qz",
    "read_images",
    "read_texts",
    "save_qz",
]
