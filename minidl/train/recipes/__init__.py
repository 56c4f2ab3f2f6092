"""What `minidl train MODEL` does for each model: options, data, network, loss, and what there is to see."""
