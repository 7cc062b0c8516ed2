"""Generated protobuf code of the HERMES schemas."""
