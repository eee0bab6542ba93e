"""Several devices and several processes: mesh, axis rules, agreement, SIGTERM."""
