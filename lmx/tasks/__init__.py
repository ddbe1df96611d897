"""Tasks: each file exports attach (a head on a body), encode (rows -> batch), loss and METRICS."""
