"""Credit: from rewards to advantages."""

from fairlead.credit.base import Credit
from fairlead.credit.dpo import DPOCredit
from fairlead.credit.gae import GAE
from fairlead.credit.group import GroupRelative, LeaveOneOut, Reinforce, ReinforcePlusPlus
from fairlead.credit.macro import MacroGAE
from fairlead.credit.nash import NashPolicyGradient
from fairlead.credit.remax import ReMax
from fairlead.credit.response_value import ResponseValue
from fairlead.credit.tasks import CreditByTask
from fairlead.credit.uniform import Uniform

__all__ = [
    "GAE",
    "Credit",
    "CreditByTask",
    "DPOCredit",
    "GroupRelative",
    "LeaveOneOut",
    "MacroGAE",
    "NashPolicyGradient",
    "ReMax",
    "Reinforce",
    "ReinforcePlusPlus",
    "ResponseValue",
    "Uniform",
]
