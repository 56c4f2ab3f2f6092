"""The networks. Each module reads like the figure of the paper it comes from."""

if __name__ != "minidl.models":
    raise ImportError(f"import minidl.models, not {__name__}")
