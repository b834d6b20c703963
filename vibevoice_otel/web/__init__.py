"""The ASGI side: when a request arrived, when its first audio left, how its socket closed, and what must not be in its
URL.
"""
