"""Runtime: model groups and where they live."""

from fairlead.runtime.backend import RuntimeSpec, open_group
from fairlead.runtime.forward import Outputs, forward
from fairlead.runtime.group import GroupSpec, Lesson, Mixture, ModelGroup, Opener, Trainable
from fairlead.runtime.local import LocalGroup
from fairlead.runtime.optimiser import OptimiserSpec

__all__ = [
    "GroupSpec",
    "Lesson",
    "LocalGroup",
    "Mixture",
    "ModelGroup",
    "Opener",
    "OptimiserSpec",
    "Outputs",
    "RuntimeSpec",
    "Trainable",
    "forward",
    "open_group",
]
