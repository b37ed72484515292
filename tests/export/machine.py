"""A machine with TensorRT and a GPU, for tests without: trtexec's arguments, computed with ONNX Runtime."""

import json
import sys
from pathlib import Path

TRTEXEC = """import json, sys
from pathlib import Path
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] [b9] # trtexec")
options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
with open("{log}", "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if "--saveEngine" in options:
    if {broken}:
        sys.exit("[11/24/2026] [I] fine so far\\n[11/24/2026] [E] no kernel for this node\\n[11/24/2026] [I] bye")
    import onnx
    onnx.save(onnx.load(options["--onnx"]), options["--saveEngine"])  # weights and all
if "--loadEngine" in options:
    import numpy as np
    from onnxruntime import InferenceSession
    shapes = dict(spec.split(":") for spec in options["--shapes"].split(","))
    session = InferenceSession(options["--loadEngine"])
    types = {{i.name: {{"tensor(int64)": np.int64, "tensor(int32)": np.int32}}[i.type] for i in session.get_inputs()}}
    feed = {{
        name: np.fromfile(file, types[name]).reshape([int(n) for n in shapes[name].split("x")])
        for name, file in (spec.split(":") for spec in options["--loadInputs"].split(","))
    }}
    tensors = []
    for output, result in zip(session.get_outputs(), session.run(None, feed)):
        result[-1, 0] += {error}
        values = [f"{{value:g}}" for value in result.ravel()]
        dimensions = "x".join(map(str, result.shape))
        tensors.append(
            '  {{ "name" : "' + output.name + '"\\n  , "dimensions" : "' + dimensions
            + '"\\n  , "values" : [ ' + ", ".join(values) + " ]\\n  }}"
        )
    Path(options["--exportOutput"]).write_text("[\\n" + ",\\n".join(tensors) + "\\n]\\n")
"""


class Machine:
    """A folder of commands to have as PATH."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bin"
        self.path.mkdir()
        self.log = folder / "trtexec.log"
        self.equip()

    def equip(self, version: str = "101303", gpu: str = "9.0", error: str = "0", *, broken: bool = False) -> None:
        code = self.path / "trtexec.py"
        code.write_text(TRTEXEC.format(version=version, log=self.log, error=error, broken=broken))
        # Not by a first line of its own: there the interpreter's path may not hold a space.
        stand_in = f'#!/bin/sh\nexec "{sys.executable}" "{code}" "$@"\n'
        for name, script in (("trtexec", stand_in), ("nvidia-smi", f"#!/bin/sh\necho {gpu}\necho {gpu}\n")):
            (self.path / name).write_text(script)
            (self.path / name).chmod(0o755)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]
