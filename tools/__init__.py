"""What builds and starts the real binaries of the pipeline; no part of the package that users install."""
