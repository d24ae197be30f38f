"""What goes over the wire: bodies, answers, problems, pages, the OpenAPI document."""
