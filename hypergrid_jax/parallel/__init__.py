"""Several devices and processes: mesh, axis rules, agreement, SIGTERM."""
