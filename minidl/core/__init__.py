"""The autograd core: tensors, primitives, the backward sweep. It knows no operation by name."""

from .backward import Fused, alias, backward, grad, hvp, jvp, vjp
from .checkpoint import checkpoint
from .dtypes import promote_types, result_type
from .mode import backend, detect_anomaly, enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .primitive import ListPrimitive, Primitive
from .random import generator, get_rng_state, manual_seed, set_rng_state
from .tensor import Tensor, as_tensor, from_dlpack, from_numpy, tensor
