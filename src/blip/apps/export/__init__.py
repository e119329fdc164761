"""Models as ONNX graphs without weights of their own, and as a page for the browser."""
