"""Looking at networks: their layers, sizes and costs."""

from .summary import Row, Summary, summary
