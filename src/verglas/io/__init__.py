"""Read and write the files of the field; foreign conventions end here."""
