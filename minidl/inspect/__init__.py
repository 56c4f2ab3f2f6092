"""Looking at networks: their layers, sizes and costs, and drawings of them."""

from .autograd import draw_autograd, draw_recording
from .drawing import Cluster, Drawing, Edge, Node
from .explain import Explanation, explain
from .layers import draw_layers
from .summary import Row, Summary, summary
