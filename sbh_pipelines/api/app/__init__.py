"""The application: what every request passes before a route, and the threads and limits it works within."""
