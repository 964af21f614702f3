"""timm is imported without torch's compiler, which works afterwards; and plainly where that fails."""

from __future__ import annotations

import pytest

from tests.helpers import in_new_process

BUILD = """
import sys
from panformer_cli.models.backbones.build import build_backbone
build_backbone("resnet50", 0.0, None, True)
print("torch._dynamo" in sys.modules)
"""
USE = """
import torch, torchvision
from panformer_cli.models.backbones.timm_import import timm
disabled = timm.layers.disable_compiler(lambda x: x + 1)
compiled = torch.compile(lambda x: 2 * disabled(x), backend="eager")
print(compiled(torch.ones(1)).item())
torch.use_deterministic_algorithms(True)
print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 4, 4]]), 1).item())
print(torch._dynamo.__file__.endswith("__init__.py"), torch.compiler.disable.__module__)
"""
FAILS_ONCE = """
import sys
class Fails:
    def find_spec(self, name, path, target=None):
        if name == "torchvision.ops.roi_pool":
            sys.meta_path.remove(self)
            raise ImportError("a release that needs more")
sys.meta_path.insert(0, Fails())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("before", "is_imported"), [("", "False"), (FAILS_ONCE, "True")], ids=["as usual", "fails"])
def test_the_compiler_is_imported_when_it_is_used(before: str, is_imported: str) -> None:
    """`roi_align` asks whether the compiler is supported where algorithms must be deterministic."""
    printed = in_new_process(before + BUILD + USE).splitlines()
    assert printed == [is_imported, "4.0", "1.0", "True torch.compiler"]
