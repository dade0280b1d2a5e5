"""Prints `folder;version as part of a name;C++ ABI` of the torch in this Python's site-packages, which a build in isolation
does not see. Fails when there is none."""

import os
import sys
import sysconfig

# an editable tightwire that is there already registers itself with torch, and cannot be imported from here
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
sys.path.insert(0, sysconfig.get_paths()["purelib"])
import torch

version = "".join(letter if letter.isalnum() else "_" for letter in torch.__version__)
print(";".join((torch.__path__[0], version, str(int(torch.compiled_with_cxx11_abi())))), end="")
