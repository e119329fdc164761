"""Files in and out: inputs, images, records, atomic writes."""
