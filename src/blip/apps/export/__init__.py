"""Export of models: ONNX graphs without weights of their own, and a web page that runs them in the browser."""
