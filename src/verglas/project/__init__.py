"""The project folder, its index, its one writer and its provenance graph."""
