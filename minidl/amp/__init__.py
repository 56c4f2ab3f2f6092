"""Mixed precision: 16-bit products beside float32 sums (`autocast`), and gradients scaled so that float16 can hold them
(`GradScaler`). Micikevicius et al. 2018, "Mixed Precision Training"."""

from .autocast import autocast, get_autocast_dtype, is_autocast_enabled
from .scaler import GradScaler
