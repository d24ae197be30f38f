"""The application: what every request passes before a route, and the limits it works within.

    server      uvicorn, bounded in time
    middleware  raw ASGI around everything, the console too: an id, the token, the body, one log line
    app         settings in, application out; errors become problems
    calls       one request as routes see it: user, tenant, service, threads
    limits      how often a user or a tenant may ask for what is expensive; how much is at work at once

Request -> server -> middleware -> app -> calls -> a route.
"""
