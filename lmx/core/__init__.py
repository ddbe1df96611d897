"""What every room may know: the six values, named trees, configs, plugins, meshes, keys and logs."""
