"""For the tests of every room. Shared helpers (`tiny_models`) lie beside this file and are imported by name."""

import torch

# The models of the tests are so small that handing work to a second thread costs more than the work.
torch.set_num_threads(1)
