"""The type of every file that crosses a pipeline-stage boundary, and of params.yaml. No torch."""
